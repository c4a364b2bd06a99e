//! The command line. `serve` is the default; everything else is short-lived.

use crate::auth::key::{Key, KeyError};
use crate::bootstrap::ClusterOptions;
use crate::config::{Config, ConfigError, Profile};
use crate::operations::dead_letters::DeadLettersCommand;
use crate::{auth, operations};
use anyhow::Context as _;
use chatify_building_blocks::clock::SystemClock;
use chatify_building_blocks::error::chain;
use chatify_building_blocks::random::SystemRandom;
use chatify_domain::SenderId;
use clap::{Args, Parser, Subcommand};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The release.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The commit that it was built from, `unknown` outside of a repository.
pub const COMMIT: &str = env!("CHATIFY_COMMIT");

const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("CHATIFY_COMMIT"), ")");

/// What was asked for could not be done. A command line that is wrong is another code, 2, with which clap ends by itself.
const EXIT_FAILURE: u8 = 1;
/// `EX_CONFIG` of `sysexits.h`.
const EXIT_CONFIGURATION: u8 = 78;

const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// A chat server that keeps its promises: every accepted message, once, in one order, for everyone in the scope.
#[derive(Debug, Parser)]
#[command(name = "chatify", version = LONG_VERSION, about)]
#[command(after_help = "Exit codes: 0 done, 1 failure, 2 wrong usage, 78 bad configuration.")]
pub struct Arguments {
    /// Configuration file; `chatify.toml` in the working directory is read when it is there.
    #[arg(short, long, global = true, env = "CHATIFY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What the binary can do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the server until it is told to end (SIGTERM or Ctrl-C; a second one ends it at once)
    Serve(ServeArguments),
    /// Print a token for a user, signed with the data directory's key
    Token(TokenArguments),
    /// Check the configuration and say what is wrong with it
    CheckConfig,
    /// Print the configuration in force, with secrets masked
    PrintConfig,
    /// Ask a running server whether it is ready
    Healthcheck(HealthcheckArguments),
    /// Bring the history's schema up to date and print what was applied
    Migrate(MigrateArguments),
    /// Records of the log that could not be understood (profile `cluster`)
    #[command(subcommand)]
    DeadLetters(DeadLettersCommand),
    /// Print how far the history is behind the log, partition by partition (profile `cluster`)
    Lag(LagArguments),
}

/// See [`Command::Migrate`].
#[derive(Clone, Debug, Args)]
pub struct MigrateArguments {
    /// Change nothing; fail when something has not been applied
    #[arg(long)]
    check: bool,
}

/// See [`Command::Lag`].
#[derive(Clone, Debug, Args)]
pub struct LagArguments {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// See [`Command::Serve`].
#[derive(Clone, Debug, Default, Args)]
pub struct ServeArguments {
    /// Print what to try first, with links that are signed in: for a server on one's own machine
    #[arg(long)]
    pub welcome: bool,
}

/// See [`Command::Token`].
#[derive(Clone, Debug, Args)]
pub struct TokenArguments {
    /// The user's id, 1 to 256 characters
    #[arg(long, value_parser = user)]
    user: SenderId,
    /// How long it is valid, for example 12h; `auth.token_ttl` when nothing is said
    #[arg(long, value_parser = crate::config::units::parse_duration)]
    ttl: Option<Duration>,
}

/// See [`Command::Healthcheck`].
#[derive(Clone, Debug, Args)]
pub struct HealthcheckArguments {
    /// What to ask; `/health/ready` of the configured address when nothing is said
    #[arg(long)]
    url: Option<url::Url>,
}

fn user(text: &str) -> Result<SenderId, String> {
    SenderId::parse(text).map_err(|error| error.to_string())
}

/// Does what the command line says and gives the process's exit code. `serve` runs the server.
pub fn run(arguments: Arguments, serve: impl FnOnce(Config, ServeArguments) -> anyhow::Result<()>) -> ExitCode {
    let config = match Config::load(arguments.config.as_deref()) {
        Ok(config) => config,
        Err(wrong) => return refuse_configuration(&wrong),
    };
    let done = match arguments.command.unwrap_or(Command::Serve(ServeArguments::default())) {
        Command::Serve(asked) => serve(config, asked),
        Command::Token(asked) => token(&config, &asked),
        Command::CheckConfig => check(&config),
        Command::PrintConfig => {
            config.to_toml().context("the configuration cannot be printed").and_then(|text| print(&text))
        }
        Command::Healthcheck(asked) => healthcheck(&config, &asked),
        Command::Migrate(asked) => operations::migrate::migrate(&config, asked.check),
        Command::DeadLetters(asked) => operations::dead_letters::run_command(&config, &asked),
        Command::Lag(asked) => operations::lag::lag(&config, asked.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&format!("{failure:#}"));
            // A configured key that cannot be used is found when it is loaded, and what a service does not take when it is asked.
            let configured = failure.is::<KeyError>() || failure.is::<ConfigError>();
            ExitCode::from(if configured { EXIT_CONFIGURATION } else { EXIT_FAILURE })
        }
    }
}

fn refuse_configuration(wrong: &ConfigError) -> ExitCode {
    complain(&chain(wrong));
    ExitCode::from(EXIT_CONFIGURATION)
}

/// Also tries a configured key (the data directory's own is made when it is needed), what the services' clients are told, and the files with secrets and
/// authorities that are read for them; asks no service.
fn check(config: &Config) -> anyhow::Result<()> {
    if config.auth.key.is_some() || config.auth.key_file.is_some() {
        let key = Key::load(config, &SystemRandom)?;
        auth::Authenticator::new(config, &key, Arc::new(SystemClock::new()))?;
    }
    match config.profile {
        Profile::Embedded => {}
        Profile::Cluster => drop(ClusterOptions::of(config)?),
    }
    print("the configuration is valid\n")
}

fn token(config: &Config, asked: &TokenArguments) -> anyhow::Result<()> {
    let key = Key::load(config, &SystemRandom)?;
    let ttl = asked.ttl.unwrap_or(config.auth.token_ttl);
    let token = auth::issue(config, &key, &asked.user, ttl, &SystemClock::new())?;
    print(&format!("{token}\n"))
}

fn healthcheck(config: &Config, asked: &HealthcheckArguments) -> anyhow::Result<()> {
    ready(config, asked)?;
    print("ready\n")
}

fn ready(config: &Config, asked: &HealthcheckArguments) -> anyhow::Result<()> {
    let default = format!("http://{}/health/ready", reachable(config.server.listen));
    let url = match &asked.url {
        Some(url) => url.clone(),
        None => url::Url::parse(&default).context("the configured address makes no URL")?,
    };
    anyhow::ensure!(url.scheme() == "http", "only http:// can be asked");
    let host = url.host_str().context("the URL has no host")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let address = (host.trim_matches(['[', ']']), port).to_socket_addrs()?.next().context("the host has no address")?;
    let answer = ask(address, &url).with_context(|| format!("{url} does not answer"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    anyhow::ensure!(status == "200", "{url} answered {status}: {}", body.trim());
    Ok(())
}

/// One HTTP/1.0 request by hand: a whole client would be the largest part of this command.
fn ask(address: SocketAddr, url: &url::Url) -> std::io::Result<String> {
    const ANSWER_MAX_BYTES: u64 = 64 << 10;
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT))?;
    stream.set_write_timeout(Some(HEALTH_TIMEOUT))?;
    let host = url.host_str().unwrap_or_default();
    let request = format!("GET {} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n", url.path());
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// "Every address" is no address to connect to.
fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listen.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), listen.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => listen,
    }
}

fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("the standard output cannot be written")
}

fn complain(text: &str) {
    // There is nowhere left to report a broken standard error stream to.
    drop(writeln!(std::io::stderr(), "chatify: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
        let parse = |arguments: &[&str]| Arguments::try_parse_from(arguments);
        assert!(parse(&["chatify"]).expect("serve").command.is_none());
        let Ok(Arguments { command: Some(Command::Token(asked)), .. }) =
            parse(&["chatify", "token", "--user", "alice", "--ttl", "5m"])
        else {
            panic!("a token command");
        };
        assert_eq!((asked.user.as_str(), asked.ttl), ("alice", Some(Duration::from_secs(300))));
        for wrong in [
            &["chatify", "token"][..],
            &["chatify", "token", "--user", " "],
            &["chatify", "token", "--user", "a", "--ttl", "5"],
            &["chatify", "fly"],
            &["chatify", "dead-letters"],
            &["chatify", "dead-letters", "show", "17"],
            &["chatify", "dead-letters", "replay"],
            &["chatify", "lag", "--partition", "1"],
        ] {
            assert_eq!(parse(wrong).expect_err("refused").exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn operators_name_records_by_their_origin() {
        for words in [
            &["chatify", "dead-letters", "list", "--json"][..],
            &["chatify", "dead-letters", "show", "chat-events/0/17"],
            &["chatify", "dead-letters", "replay", "chat-events/0/17", "chat-events/1/2"],
            &["chatify", "migrate", "--check"],
            &["chatify", "lag", "--json"],
        ] {
            Arguments::try_parse_from(words).expect("a command");
        }
    }

    #[test]
    fn a_server_that_listens_everywhere_is_asked_on_the_loopback() {
        for (listen, asked) in [("0.0.0.0:8080", "127.0.0.1:8080"), ("[::]:1", "[::1]:1"), ("10.0.0.1:2", "10.0.0.1:2")]
        {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), asked);
        }
    }

    #[test]
    fn health_is_what_the_server_says() {
        let config = Config::defaults().expect("valid");
        let cases = [
            ("HTTP/1.1 200 OK\r\n\r\n{}", None),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"reasons\":[\"draining\"]}", Some("draining")),
            ("SSH-2.0-OpenSSH_9.2p1\r\n", Some("answered")),
            ("", Some("answered")),
        ];
        for (answer, complaint) in cases {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("an address");
            let asked = HealthcheckArguments { url: url::Url::parse(&format!("http://{address}/health/ready")).ok() };
            let outcome = std::thread::scope(|scope| {
                scope.spawn(|| {
                    let (mut client, _) = listener.accept().expect("a client");
                    let mut request = [0; 1024];
                    let length = client.read(&mut request).expect("a request");
                    assert!(request[..length].starts_with(b"GET /health/ready HTTP/1.0\r\n"));
                    client.write_all(answer.as_bytes()).expect("written");
                });
                ready(&config, &asked)
            });
            match (outcome, complaint) {
                (Ok(()), None) => {}
                (Err(error), Some(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (outcome, _) => panic!("{answer}: {outcome:?}"),
            }
        }
        let https = HealthcheckArguments { url: url::Url::parse("https://localhost/").ok() };
        assert!(ready(&config, &https).is_err());
    }
}
