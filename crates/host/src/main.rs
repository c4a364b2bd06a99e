//! The binary `chatify`: see `chatify_host`.

use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::random::SystemRandom;
use chatify_host::cli::{self, Arguments, ServeArguments};
use chatify_host::config::Config;
use chatify_host::{bootstrap, telemetry};
use clap::Parser;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    cli::run(Arguments::parse(), serve)
}

fn serve(config: Config, asked: ServeArguments) -> anyhow::Result<()> {
    telemetry::start(&config.telemetry)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(bootstrap::serve(config, asked.welcome, Arc::new(SystemClock::new()), Arc::new(SystemRandom)))
}
