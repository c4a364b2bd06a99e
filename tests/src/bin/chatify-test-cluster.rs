//! Stands in for `chatify` wherever one address and one process are expected, and is a cluster: three pods behind a load balancer
//! that picks one at random for each connection, over the services that `CHATIFY_TEST_KAFKA`, `CHATIFY_TEST_CQL` and
//! `CHATIFY_TEST_REDIS` name (`scripts/services.sh start kafka cassandra redis`).
//!
//! It takes the settings of `chatify` from the environment, listens where they say, announces its address in the data directory
//! as `chatify` does, passes signals on, and ends when its pods have. The data directory also names what it uses in the shared
//! services, so a second start finds the messages of the first. `chatify-test-cluster forget` removes what cannot be shared for
//! long, the keyspace. Every other command is run by the real binary with the settings of the cluster.

use chatify_building_blocks::random::{Random, SystemRandom};
use chatify_tests::cluster::{ClusterNames, Services};
use chatify_tests::home::binary;
use chatify_tests::link::Link;
use chatify_tests::pod::Pod;
use chatify_tests::profile::PODS;
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};

/// As the harness's own load balancer: what it holds for a client that does not read.
const BUFFER: usize = 16 << 10;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let directory = setting("SERVER__DATA_DIR").map_or_else(|| PathBuf::from("./data"), PathBuf::from);
    fs::create_dir_all(&directory).expect("the data directory can be made");
    let names = ClusterNames::named(Services::of_this_run(), &identity(&directory));
    match arguments.first().map(String::as_str) {
        None | Some("serve") => serve(&names, &directory).await,
        Some("forget") => {
            names.forget();
            ExitCode::SUCCESS
        }
        Some(_) => run(&names, &directory, &arguments).await,
    }
}

fn setting(key: &str) -> Option<String> {
    std::env::var(format!("CHATIFY__{key}")).ok()
}

/// What the names in the shared services are made of; kept with the data.
fn identity(directory: &Path) -> String {
    let file = directory.join("cluster");
    fs::read_to_string(&file).unwrap_or_else(|_| {
        let identity = format!("{:016x}", SystemRandom.u64());
        fs::write(&file, &identity).expect("the data directory can be written");
        identity
    })
}

/// The real binary with the settings of pod `number`; what the environment sets as well wins.
fn command(names: &ClusterNames, directory: &Path, number: usize, arguments: &[String]) -> Command {
    // A pod must not outlive this process, however it ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(binary()).args(arguments).kill_on_drop(true);
    let epoch = setting("MESSAGE_BROKER__LOG_EPOCH").unwrap_or_else(|| "1".to_owned());
    command
        .envs(names.settings(number, &epoch))
        .envs(std::env::vars().filter(|(name, _)| name.starts_with("CHATIFY__")));
    command.env("CHATIFY__SERVER__DATA_DIR", directory.join(format!("pod-{number}")));
    command
}

async fn run(names: &ClusterNames, directory: &Path, arguments: &[String]) -> ExitCode {
    let status = command(names, directory, 0, arguments).status().await.expect("the binary can be started");
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

async fn serve(names: &ClusterNames, directory: &Path) -> ExitCode {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be listened for");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be listened for");
    let announcement = |number: usize| directory.join(format!("pod-{number}")).join("listening");
    let start = |number: usize| {
        let mut command = command(names, directory, number, &["serve".to_owned()]);
        command.env("CHATIFY__SERVER__LISTEN", "127.0.0.1:0");
        Pod::spawn(command, directory.join(format!("pod-{number}.log")), &announcement(number))
    };
    let mut pods: Vec<Pod> = (0..PODS).map(start).collect();
    for (number, pod) in pods.iter_mut().enumerate() {
        pod.listening(&announcement(number)).await;
        pod.ready().await;
    }
    let listen = setting("SERVER__LISTEN").unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listen: SocketAddr = listen.parse().expect("`server.listen` is an address and a port");
    let balancer = Link::start(listen, pods.iter().map(Pod::address).collect(), SystemRandom.u64(), Some(BUFFER));
    let announced = directory.join("listening");
    fs::write(&announced, format!("{}\n", balancer.address())).expect("the data directory can be written");
    let mut worst = ExitCode::SUCCESS;
    let mut running = PODS;
    while running > 0 {
        tokio::select! {
            _ = terminate.recv() => pass_on(&balancer, &pods),
            _ = interrupt.recv() => pass_on(&balancer, &pods),
            status = next_end(&mut pods) => {
                running -= 1;
                if !status.success() {
                    let code = status.code().and_then(|code| u8::try_from(code).ok());
                    worst = code.map_or(ExitCode::FAILURE, ExitCode::from);
                }
            }
        }
    }
    drop(fs::remove_file(announced));
    show_logs(directory);
    worst
}

fn pass_on(balancer: &Link, pods: &[Pod]) {
    balancer.end_with_targets();
    pods.iter().for_each(|pod| pod.signal(Signal::TERM));
}

/// Waits for the next pod to end, whichever it is, and forgets it.
async fn next_end(pods: &mut Vec<Pod>) -> std::process::ExitStatus {
    let ends = pods.iter_mut().map(|pod| Box::pin(pod.end()));
    let (status, index, _) = futures_util::future::select_all(ends).await;
    drop(pods.remove(index));
    status
}

/// The caller looks for what must not be in a log.
fn show_logs(directory: &Path) {
    let mut output = std::io::stderr().lock();
    for number in 0..PODS {
        let log = fs::read(directory.join(format!("pod-{number}.log"))).unwrap_or_default();
        // Nobody may be listening any more.
        drop(output.write_all(&log));
    }
}
