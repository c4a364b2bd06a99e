//! The settings as data: names, defaults and documentation, written once beside each field.
//!
//! From it come the built-in defaults, the check for unknown keys, `chatify.example.toml` and `docs/CONFIGURATION.md`.

use std::fmt::Write as _;

/// One section of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name in TOML; empty for the keys before the first section.
    pub key: &'static str,
    /// What it is about.
    pub documentation: &'static [&'static str],
    /// Its settings, in the order of the struct.
    pub fields: &'static [Field],
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its name in TOML.
    pub key: &'static str,
    /// Its default as a TOML value; empty when it is unset by default.
    pub default: &'static str,
    /// What it does, line by line.
    pub documentation: &'static [&'static str],
}

impl Section {
    /// `server.listen`, or `profile` for a key before the first section.
    #[must_use]
    pub fn path_of(&self, field: &Field) -> String {
        if self.key.is_empty() { field.key.into() } else { format!("{}.{}", self.key, field.key) }
    }

    /// `CHATIFY__SERVER__LISTEN`.
    #[must_use]
    pub fn variable_of(&self, field: &Field) -> String {
        format!("CHATIFY__{}", self.path_of(field).replace('.', "__").to_uppercase())
    }
}

/// Defines a section's struct and its [`Section`] from one list of documented fields with defaults. Sections within it come after `with`.
macro_rules! section {
    ($(#[doc = $about:literal])+ $name:ident [$section:literal] {
        $( $(#[doc = $doc:literal])+ $(#[serde($($serde:tt)*)])? $field:ident : $kind:ty = $default:literal, )+
    } $(with { $( $(#[doc = $inner_doc:literal])+ $inner:ident : $inner_kind:ty, )+ })?) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ $(#[serde($($serde)*)])? pub $field: $kind, )+
            $( $( $(#[doc = $inner_doc])+ pub $inner: $inner_kind, )+ )?
        }

        impl $name {
            /// The section as data.
            pub const SECTION: $crate::config::describe::Section = $crate::config::describe::Section {
                key: $section,
                documentation: &[$($about),+],
                fields: &[$( $crate::config::describe::Field {
                    key: stringify!($field),
                    default: $default,
                    documentation: &[$($doc),+],
                } ),+],
            };
        }
    };
}
pub(super) use section;

/// The defaults as TOML: the lowest layer of every configuration.
#[must_use]
pub fn defaults(sections: &[Section]) -> String {
    render(sections, |out, section, field| {
        let _ = section;
        if !field.default.is_empty() {
            let _ = writeln!(out, "{} = {}", field.key, field.default);
        }
    })
}

/// `chatify.example.toml`: every setting with its documentation, commented out at its default.
#[must_use]
pub fn example(sections: &[Section]) -> String {
    let mut text = String::from(EXAMPLE_HEAD);
    text.push_str(&render(sections, |out, _, field| {
        out.push('\n');
        for line in field.documentation {
            let _ = writeln!(out, "#{line}");
        }
        let value = if field.default.is_empty() { "\"\"  # unset" } else { field.default };
        let _ = writeln!(out, "# {} = {value}", field.key);
    }));
    text
}

/// `docs/CONFIGURATION.md`.
#[must_use]
pub fn markdown(sections: &[Section]) -> String {
    let mut text = String::from(MARKDOWN_HEAD);
    for section in sections {
        let title =
            if section.key.is_empty() { "Before the first section".into() } else { format!("`[{}]`", section.key) };
        let _ = write!(text, "\n## {title}\n\n{}\n\n", joined(section.documentation));
        text.push_str("| key | variable | default | what it does |\n| --- | --- | --- | --- |\n");
        for field in section.fields {
            let default = if field.default.is_empty() { "unset".into() } else { format!("`{}`", field.default) };
            let documentation = joined(field.documentation).replace('|', "\\|");
            let (key, variable) = (field.key, section.variable_of(field));
            let _ = writeln!(text, "| `{key}` | `{variable}` | {default} | {documentation} |");
        }
    }
    text
}

fn render(sections: &[Section], line: impl Fn(&mut String, &Section, &Field)) -> String {
    let mut out = String::new();
    for section in sections {
        if !section.key.is_empty() {
            let _ = writeln!(out, "\n[{}]", section.key);
        }
        for field in section.fields {
            line(&mut out, section, field);
        }
    }
    out
}

fn joined(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

const EXAMPLE_HEAD: &str = "\
# The configuration of Chatify. Every line that is commented out shows the default.
# Environment variables win over this file: CHATIFY__SERVER__LISTEN is `listen` in `[server]`.
# Durations (ms, s, m, h, d) and sizes (B, KiB, MiB, GiB) carry their unit. Unknown keys are errors.
";

const MARKDOWN_HEAD: &str = "\
# Configuration

Chatify needs no configuration to start as one process (the profile `embedded`). The profile `cluster` must be told where its services
are and which key its pods share: `message_broker.bootstrap_servers`, `scylla.contact_points`, `caching.connection_string`, `auth.key`.
What you set comes, from weakest to strongest, from the defaults below, from a TOML file
(`--config FILE`, or `CHATIFY_CONFIG`, or `chatify.toml` in the working directory when it is there) and from environment variables.

* A variable is `CHATIFY__` + section + `__` + key in capitals; a list is one text with commas, a table `name=value` with commas.
* Durations (`ms`, `s`, `m`, `h`, `d`) and sizes (`B`, `KiB`, `MiB`, `GiB`) carry their unit.
* Unknown keys and variables, and values out of range, are errors: the process does not start (exit code 78) and names the field.
* A secret can also be given as a file, read at the start without the white space at its ends: `auth.key_file`,
  `CHATIFY__SCYLLA__PASSWORD_FILE`, `CHATIFY__CACHING__CONNECTION_STRING_FILE`. Secrets never print.
* `chatify check-config` checks, `chatify print-config` prints what is in force.

This page and `chatify.example.toml` are written from the documentation of the code; a test fails when they differ.
`CHATIFY_BLESS=1 cargo test -p chatify-host config` writes them anew.
";
