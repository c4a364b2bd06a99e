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
    assert!(config.playground() && config.auth.key.is_none());
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
    assert!(!config.playground());
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
        ("[server]\ndrain_grace = \"2s\"", &[], "`limits.close_timeout` must be shorter"),
        ("[message_broker]\nlog_epoch = 0", &[], "`message_broker.log_epoch`"),
        ("[message_broker]\nlog_epoch = 70000", &[], "log_epoch"),
        ("[server]\norigins = [\"https://a.org/\"]", &[], "`server.origins` has `https://a.org/`"),
        ("[server]\norigins = [\"*\"]", &[], "`server.origins`"),
        ("[server]\npod_id = \" \"", &[], "`server.pod_id` must not be blank"),
        ("[auth]\nalgorithm = \"none\"", &[], "auth.algorithm"),
        ("[auth]\nalgorithm = \"RS256\"", &[], "`auth.key` must be the public key"),
        ("[auth]\nkey = \"a\"\nkey_file = \"b\"", &[], "`auth.key_file` must not be set together"),
        ("[telemetry]\nlog_filter = \"a=b=c\"", &[], "`telemetry.log_filter`"),
        ("profile = \"other\"", &[], "unknown profile `other`, there are `embedded` and `cluster`"),
    ];
    for (file, environment, expected) in cases {
        let error = load(file, environment).expect_err(file);
        assert!(error.contains(expected), "{file} {environment:?}\n  said: {error}\n  expected: {expected}");
    }
}

/// Everything that the profile `cluster` cannot do without.
const CLUSTER: [(&str, &str); 5] = [
    ("CHATIFY__PROFILE", "cluster"),
    ("CHATIFY__AUTH__KEY", "one key for all pods, of at least 32 bytes"),
    ("CHATIFY__MESSAGE_BROKER__BOOTSTRAP_SERVERS", "a.example:9092, b.example:9092"),
    ("CHATIFY__SCYLLA__CONTACT_POINTS", "a,b:9043,[::1]:9042"),
    ("CHATIFY__CACHING__CONNECTION_STRING", "redis://:hunter2@cache"),
];

#[test]
fn a_cluster_needs_its_services_and_one_key() {
    let config = load("", &CLUSTER).expect("valid");
    assert_eq!(config.profile, Profile::Cluster);
    assert_eq!(config.message_broker.bootstrap_servers.0, ["a.example:9092", "b.example:9092"]);
    assert_eq!(config.scylla.contact_points.0, ["a", "b:9043", "[::1]:9042"]);
    assert!(!config.playground(), "pods do not serve it by themselves");
    for (missing, (name, _)) in CLUSTER.into_iter().enumerate().skip(1) {
        let rest: Vec<_> = CLUSTER.into_iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, set)| set).collect();
        let field = name.trim_start_matches("CHATIFY__").replace("__", ".").to_lowercase();
        let error = load("", &rest).expect_err("something is missing");
        assert!(error.contains(&format!("`{field}`")) && error.contains("in the profile `cluster`"), "{error}");
    }
    let mut files = CLUSTER;
    files[1].0 = "CHATIFY__AUTH__KEY_FILE";
    files[4].0 = "CHATIFY__CACHING__CONNECTION_STRING_FILE";
    load("[server]\nplayground = true", &files).expect("a file is as good");
}

#[test]
fn mistakes_about_services_name_their_field() {
    let cases = [
        ("[message_broker]\nbootstrap_servers = [\"a\"]", "`message_broker.bootstrap_servers` has `a`"),
        ("[message_broker]\nbootstrap_servers = \"kafka://a:1\"", "`message_broker.bootstrap_servers` has"),
        ("[message_broker]\ntopic_name = \"a b\"", "`message_broker.topic_name` must be"),
        ("[message_broker]\ndead_letter_topic_name = \"chat-events\"", "`message_broker.dead_letter_topic_name`"),
        ("[message_broker]\npartitions = 0", "`message_broker.partitions` must be between 1"),
        ("[message_broker]\nreplication_factor = 0", "`message_broker.replication_factor`"),
        ("[message_broker]\nlinger = \"2s\"", "`message_broker.linger`"),
        ("[message_broker]\ncompression = \"brotli\"", "message_broker.compression"),
        ("[message_broker]\nproperties = [1]", "a table, or one text"),
        ("[message_broker]\nproperties = \"a\"", "has no `=`"),
        ("[message_broker.properties]\nx = 1.5", "a whole number or a boolean"),
        ("[message_broker.security]\nprotocol = \"ssl\"", "message_broker.security.protocol"),
        ("[message_broker.security]\nprotocl = \"tls\"", "did you mean `message_broker.security.protocol`?"),
        (
            "[message_broker.security]\npassword = \"a\"\npassword_file = \"b\"",
            "`message_broker.security.password_file`",
        ),
        ("[caching]\nconnection_string = \"hunter2@cache\"", "`caching.connection_string` must start with redis://"),
        (
            "[caching]\nconnection_string = \"redis://a\"\nconnection_string_file = \"b\"",
            "`caching.connection_string_file`",
        ),
        ("[caching]\nkey_prefix = \"{a}\"", "`caching.key_prefix`"),
        ("[caching]\ndeadline = \"1m\"", "`caching.deadline`"),
        ("[scylla]\ncontact_points = [\"http://a\"]", "`scylla.contact_points` has `http://a`"),
        ("[scylla]\nkeyspace = \"Chat-ify\"", "`scylla.keyspace`"),
        ("[scylla]\nusername = \"a\"", "`scylla.password` must be set"),
        ("[scylla]\npassword = \"a\"", "`scylla.username` must be set"),
        ("[scylla]\nca_file = \"a\"", "`scylla.ca_file` needs `tls = true`"),
        ("[scylla]\nread_consistency = \"two\"", "scylla.read_consistency"),
        ("[scylla]\nwrite_consistency = \"local_one\"", "`scylla.write_consistency` must be a quorum"),
        ("[chat_history_writer]\nconsumer_group_id = \" \"", "`chat_history_writer.consumer_group_id`"),
    ];
    for (file, expected) in cases {
        let error = load(file, &[]).expect_err(file);
        assert!(error.contains(expected), "{file}\n  said: {error}\n  expected: {expected}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn properties_come_as_a_table_or_as_one_variable() {
    let file =
        "[message_broker.properties]\n\"socket.keepalive.enable\" = true\n\"socket.timeout.ms\" = 5000\nx = \"Y\"";
    let properties = load(file, &[]).expect("valid").message_broker.properties.0;
    let expected = [("socket.keepalive.enable", "true"), ("socket.timeout.ms", "5000"), ("x", "Y")];
    assert!(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{properties:?}");
    let variable = [("CHATIFY__MESSAGE_BROKER__PROPERTIES", "socket.timeout.ms=7, y = a=b ,")];
    let properties = load("", &variable).expect("valid").message_broker.properties.0;
    let expected = [("socket.timeout.ms", "7"), ("y", "a=b")];
    assert!(properties.iter().map(|(name, value)| (name.as_str(), value.as_str())).eq(expected), "{properties:?}");
}

#[test]
fn secrets_do_not_print() {
    let secret = "correct horse battery staple, and more";
    let config = load("", &[("CHATIFY__AUTH__KEY", secret)]).expect("valid");
    let printed = config.to_toml().expect("printable");
    assert!(printed.contains("key = \"***\"") && !printed.contains("horse"), "{printed}");
    assert!(!format!("{config:?}").contains("horse"));
    let environment = [
        ("CHATIFY__CACHING__CONNECTION_STRING", "rediss://:hunter2@cache"),
        ("CHATIFY__SCYLLA__USERNAME", "chatify"),
        ("CHATIFY__SCYLLA__PASSWORD", "hunter2"),
        ("CHATIFY__MESSAGE_BROKER__SECURITY__PASSWORD", "hunter2"),
        ("CHATIFY__MESSAGE_BROKER__SECURITY__KEY_PASSWORD", "hunter2"),
        ("CHATIFY__MESSAGE_BROKER__PROPERTIES", "ssl.keystore.password=hunter2,client.rack=here"),
    ];
    let config = load("", &environment).expect("valid");
    let printed = config.to_toml().expect("printable");
    assert!(printed.contains("here") && !printed.contains("hunter2"), "{printed}");
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn a_file_that_is_no_toml_is_told_by_place_and_not_by_its_text() {
    let cases = [
        ("[scylla]\nusername = \"é\"\npassword = \"hunter2\\q\"\n", "line 3, column 21"),
        ("[scylla]\npassword = hunter2\n", "line 2, column 12"),
        ("[scylla]\npassword = \"hunter2\n", "line "),
        ("[scylla]\npassword = \"hunter2\" hunter2\n", "line 2, column"),
        ("[scylla]\npassword = \"hunter2\"\npassword = \"hunter2\"\n", "line 3, column"),
    ];
    for (file, place) in cases {
        let error = load(file, &[]).expect_err(file);
        assert!(error.contains(&format!("`chatify.toml` is not valid TOML: {place}")), "{file}\n  said: {error}");
        assert!(!error.contains("hunter2"), "{error}");
        let source = Some((PathBuf::from("chatify.toml"), file.to_owned()));
        let error = Config::from_sources(source, []).expect_err(file);
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn secrets_may_be_in_files_of_their_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("secret");
    std::fs::write(&file, "redis://:hunter2@cache\n").expect("written");
    let named = file.to_str().expect("a path of letters");
    let environment = [
        ("CHATIFY__CACHING__CONNECTION_STRING_FILE", named),
        ("CHATIFY__SCYLLA__USERNAME", "chatify"),
        ("CHATIFY__SCYLLA__PASSWORD_FILE", named),
        ("CHATIFY__MESSAGE_BROKER__SECURITY__PASSWORD_FILE", named),
        ("CHATIFY__MESSAGE_BROKER__SECURITY__KEY_PASSWORD_FILE", named),
    ];
    let config = load("", &environment).expect("valid");
    let read = [
        config.redis_connection_string(),
        config.store_password(),
        config.broker_password(),
        config.broker_key_password(),
    ];
    for secret in read {
        assert_eq!(secret.expect("readable").expect("there").expose(), "redis://:hunter2@cache");
    }
    assert!(!config.to_toml().expect("printable").contains("hunter2"));
    std::fs::write(&file, " \n").expect("written");
    let empty = config.store_password().expect_err("nothing is in it");
    assert!(empty.to_string().contains("`scylla.password_file` names an empty file"), "{empty}");
    std::fs::write(&file, "hunter2").expect("written");
    let error = config.redis_connection_string().expect_err("no connection string").to_string();
    assert!(error.contains("`caching.connection_string` must start with") && !error.contains("hunter2"), "{error}");
    std::fs::remove_file(&file).expect("there");
    let missing = config.broker_password().expect_err("no file").to_string();
    assert!(missing.contains("`message_broker.security.password_file` names"), "{missing}");
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
