//! Layers, mistakes, and the written pages.

use super::*;
use std::error::Error as _;
use std::ffi::OsString;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
    let file = (!file.is_empty()).then(|| (PathBuf::from("chatify.toml"), file.to_string()));
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::from_sources(file, environment).map_err(|error| {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    })
}

#[test]
fn the_defaults_are_valid_and_the_documented_ones() {
    let config = Config::defaults().expect("valid defaults");
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.limits.send_messages, 100);
    assert_eq!(config.limits.frame, 65_536);
    assert_eq!(config.message_broker.retention.as_secs(), 7 * 86_400);
    assert!(config.server.playground && config.auth.key.is_none());
}

#[test]
fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
    let file = "[server]\nlisten = \"127.0.0.1:1\"\norigins = [\"https://a.org\"]\n[limits]\nsend_messages = 7\n";
    let config = load(file, &[]).expect("valid");
    assert_eq!((config.server.listen.port(), config.limits.send_messages), (1, 7));
    assert_eq!(config.server.origins.0, ["https://a.org"]);
    let environment = [
        ("CHATIFY__SERVER__LISTEN", "127.0.0.1:2"),
        ("CHATIFY__SERVER__ORIGINS", "https://b.org, http://c.org:81"),
        ("CHATIFY__SERVER__PLAYGROUND", "false"),
        ("CHATIFY__LIMITS__SEND_WINDOW", "5m"),
        ("CHATIFY__MESSAGE_BROKER__LOG_EPOCH", "12"),
        ("CHATIFY__AUTH__KEY", "01230123012301230123012301230123"),
        ("CHATIFY_CONFIG", "not ours to read"),
        ("CHATIFYX", "neither"),
    ];
    let config = load(file, &environment).expect("valid");
    assert_eq!((config.server.listen.port(), config.limits.send_messages), (2, 7));
    assert_eq!(config.server.origins.0, ["https://b.org", "http://c.org:81"]);
    assert!(!config.server.playground);
    assert_eq!((config.limits.send_window.as_secs(), config.message_broker.log_epoch), (300, 12));
    let key = config.auth.key.as_ref().expect("a key").expose();
    assert_eq!(key, "01230123012301230123012301230123", "a key of digits stays a text");
}

#[test]
fn every_mistake_names_its_field() {
    let cases: &[(&str, &[(&str, &str)], &str)] = &[
        ("[server]\nlistn = \"x\"", &[], "unknown configuration key `server.listn`, did you mean `server.listen`?"),
        ("[servr]\nlisten = \"127.0.0.1:1\"", &[], "unknown configuration key `servr`"),
        ("listen = \"127.0.0.1:1\"", &[], "unknown configuration key `listen`"),
        ("[server", &[], "not valid TOML"),
        ("", &[("CHATIFY__SERVER__LISTN", "x")], "`CHATIFY__SERVER__LISTN`, did you mean `CHATIFY__SERVER__LISTEN`?"),
        ("", &[("CHATIFY__SERVER", "x")], "unknown configuration key `CHATIFY__SERVER`"),
        ("", &[("CHATIFY__SERVER__LISTEN", "here")], "server.listen"),
        ("", &[("CHATIFY__SERVER__PLAYGROUND", "perhaps")], "server.playground"),
        ("", &[("CHATIFY__LIMITS__CONNECTIONS", "many")], "limits.connections"),
        ("[limits]\nsend_window = 60", &[], "a duration such as"),
        ("[limits]\nsend_window = \"60\"", &[], "must end with a unit"),
        ("[limits]\nframe = \"1KiB\"", &[], "`limits.frame` must be between 32KiB and 16MiB"),
        ("[limits]\nsend_messages = 0", &[], "`limits.send_messages` must be between 1 and"),
        ("[limits]\nkeep_alive = \"40s\"", &[], "`limits.client_timeout` must be longer"),
        ("[message_broker]\nlog_epoch = 0", &[], "`message_broker.log_epoch`"),
        ("[message_broker]\nlog_epoch = 70000", &[], "log_epoch"),
        ("[server]\norigins = [\"https://a.org/\"]", &[], "`server.origins` has `https://a.org/`"),
        ("[server]\norigins = [\"*\"]", &[], "`server.origins`"),
        ("[server]\npod_id = \" \"", &[], "`server.pod_id` must not be blank"),
        ("[auth]\nalgorithm = \"none\"", &[], "auth.algorithm"),
        ("[auth]\nalgorithm = \"RS256\"", &[], "`auth.key` must be the public key"),
        ("[auth]\nkey = \"a\"\nkey_file = \"b\"", &[], "`auth.key_file` must not be set together"),
        ("[telemetry]\nlog_filter = \"a=b=c\"", &[], "`telemetry.log_filter`"),
        ("profile = \"cluster\"", &[], "not part of this release, which has `embedded` only"),
        ("profile = \"other\"", &[], "unknown profile `other`"),
    ];
    for (file, environment, expected) in cases {
        let error = load(file, environment).expect_err(file);
        assert!(error.contains(expected), "{file} {environment:?}\n  said: {error}\n  expected: {expected}");
    }
}

#[test]
fn secrets_do_not_print() {
    let secret = "correct horse battery staple, and more";
    let config = load("", &[("CHATIFY__AUTH__KEY", secret)]).expect("valid");
    let printed = config.to_toml().expect("printable");
    assert!(printed.contains("key = \"***\"") && !printed.contains("horse"), "{printed}");
    assert!(!format!("{config:?}").contains("horse"));
}

#[test]
fn what_prints_loads_again() {
    let config = load("[server]\nlisten = \"0.0.0.0:9\"\norigins = [\"https://a.org\"]", &[]).expect("valid");
    let printed = config.to_toml().expect("printable");
    let again = load(&printed, &[]).expect("what prints is valid");
    assert_eq!(again.to_toml().expect("printable"), printed);
}

#[test]
fn example_and_page_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let files = [
        ("chatify.example.toml", describe::example(&SECTIONS)),
        ("docs/CONFIGURATION.md", describe::markdown(&SECTIONS)),
    ];
    for (name, expected) in files {
        let path = root.join(name);
        if std::env::var_os("CHATIFY_BLESS").is_some() {
            std::fs::write(&path, &expected).expect("writable");
        }
        let current = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(current == expected, "{name} is not current: run CHATIFY_BLESS=1 cargo test -p chatify-host config");
    }
}

#[test]
fn the_example_with_its_comments_removed_is_the_defaults() {
    let example = describe::example(&SECTIONS);
    let is_setting = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
    };
    let active: Vec<&str> = example
        .lines()
        .filter(|line| !line.ends_with("# unset"))
        .filter_map(|line| if is_setting(line) { line.strip_prefix("# ") } else { Some(line) })
        .collect();
    let config = load(&active.join("\n"), &[]).expect("the example is valid");
    let defaults = Config::defaults().expect("valid");
    assert_eq!(config.to_toml().expect("printable"), defaults.to_toml().expect("printable"));
    assert!(example.lines().filter(|line| is_setting(line)).count() >= 40);
}
