//! The contract suites over a real Redis, alone and as a cluster, and what is true of these adapters alone.

mod cluster_faults;
mod fake_server;
mod faults;
mod fixture;
mod limits;
mod presence;
mod proxy;
mod server;
mod signals;

mod single {
    use super::fixture::Fixture;

    chatify_application::presence_contract!(Fixture::single());
    chatify_application::rate_limit_contract!(Fixture::single());
    chatify_application::signal_contract!(Fixture::single());
}

mod cluster {
    use super::fixture::Fixture;

    chatify_application::presence_contract!(Fixture::cluster());
    chatify_application::rate_limit_contract!(Fixture::cluster());
    chatify_application::signal_contract!(Fixture::cluster());
}
