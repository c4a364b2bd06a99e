//! The key that tokens are signed or checked with: configured, or made in the data directory.

use crate::config::{Config, TokenAlgorithm};
use chatify_building_blocks::random::Random;
use secrecy::{ExposeSecret, SecretSlice};
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the made key's file in the data directory.
pub const KEY_FILE: &str = "auth.key";

/// A shared secret has at least as many bytes as its hash (RFC 7518, section 3.2).
pub const SHARED_SECRET_MIN_BYTES: usize = 32;

/// A shared secret, or a public key in PEM; its algorithm says which.
#[derive(Debug)]
pub struct Key {
    /// The one algorithm it is for.
    pub algorithm: TokenAlgorithm,
    bytes: SecretSlice<u8>,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The data directory's own key cannot be read or made.
    #[error("the key file `{path}` cannot be {action}")]
    File {
        /// Which.
        path: PathBuf,
        /// Read or made.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The configured file cannot be read.
    #[error("`auth.key_file` names `{path}`, which cannot be read")]
    Configured {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A shared secret that can be guessed.
    #[error("`auth.key` must have at least {SHARED_SECRET_MIN_BYTES} bytes with HS256, has {actual}")]
    TooShort {
        /// How many it has.
        actual: usize,
    },
    /// No key of that kind.
    #[error("`auth.key` is not a public key in PEM for {algorithm:?}")]
    Format {
        /// What it should be for.
        algorithm: TokenAlgorithm,
        /// Why not.
        #[source]
        source: jsonwebtoken::errors::Error,
    },
}

impl Key {
    /// The configured key; when none is, the one in the data directory, which is made (mode 0600) when it is missing.
    ///
    /// # Errors
    /// When it cannot be read or made, or is too short.
    pub fn load(config: &Config, random: &dyn Random) -> Result<Self, KeyError> {
        let auth = &config.auth;
        let bytes = match (&auth.key, &auth.key_file) {
            (Some(key), _) => key.expose().as_bytes().to_vec(),
            (None, Some(path)) => {
                let bytes = fs::read(path).map_err(|source| KeyError::Configured { path: path.clone(), source })?;
                trimmed(bytes)
            }
            (None, None) => load_or_make(&config.server.data_dir, random)?,
        };
        if auth.algorithm == TokenAlgorithm::HS256 && bytes.len() < SHARED_SECRET_MIN_BYTES {
            return Err(KeyError::TooShort { actual: bytes.len() });
        }
        Ok(Self { algorithm: auth.algorithm, bytes: bytes.into() })
    }

    /// The key itself.
    #[must_use]
    pub(super) fn expose(&self) -> &[u8] {
        self.bytes.expose_secret()
    }
}

fn load_or_make(data_dir: &Path, random: &dyn Random) -> Result<Vec<u8>, KeyError> {
    let path = data_dir.join(KEY_FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(trimmed(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(data_dir, &path, random).map_err(|source| KeyError::File {
                path: path.clone(),
                action: "made",
                source,
            })?;
            let made = fs::read(&path).map_err(|source| KeyError::File { path, action: "read", source })?;
            Ok(trimmed(made))
        }
        Err(source) => Err(KeyError::File { path, action: "read", source }),
    }
}

/// Writes a new key beside its place and links it there: whoever comes second keeps the first one's, and nobody sees half a key.
fn make(data_dir: &Path, path: &Path, random: &dyn Random) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let draft = data_dir.join(format!("{KEY_FILE}.{:016x}", random.u64()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{:032x}{:032x}", random.u128(), random.u128())?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => fs::File::open(data_dir)?.sync_all(),
    }
}

/// Editors and `echo` end a file with a new line, which is no part of the key.
fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatify_building_blocks::random::SeededRandom;
    use std::os::unix::fs::PermissionsExt as _;

    fn config(data_dir: &Path) -> Config {
        let mut config = Config::defaults().expect("valid");
        config.server.data_dir = data_dir.into();
        config
    }

    #[test]
    fn a_made_key_is_private_and_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(&directory.path().join("new/data"));
        let first = Key::load(&config, &SeededRandom::new(1)).expect("made");
        let second = Key::load(&config, &SeededRandom::new(2)).expect("read");
        assert_eq!((first.expose(), first.expose().len()), (second.expose(), 64));
        let path = config.server.data_dir.join(KEY_FILE);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&config.server.data_dir)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&config.server.data_dir).expect("there").count(), 1, "no draft is left");
        assert!(!format!("{first:?}").contains(std::str::from_utf8(first.expose()).expect("hex")));
    }

    #[test]
    fn many_that_start_at_once_get_one_key() {
        let directory = tempfile::tempdir().expect("a directory");
        let config = config(directory.path());
        let keys: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let load = |seed| Key::load(&config, &SeededRandom::new(seed)).expect("a key").expose().to_vec();
            let handles: Vec<_> = (0..8).map(|seed| scope.spawn(move || load(seed))).collect();
            handles.into_iter().map(|handle| handle.join().expect("no panic")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn short_secrets_and_missing_files_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut config = config(directory.path());
        config.auth.key = Some(crate::config::Secret::new("short".into()));
        assert!(matches!(Key::load(&config, &SeededRandom::new(1)), Err(KeyError::TooShort { actual: 5 })));
        config.auth.key = None;
        config.auth.key_file = Some(directory.path().join("none"));
        let missing = Key::load(&config, &SeededRandom::new(1)).expect_err("no such file").to_string();
        assert!(missing.contains("`auth.key_file`") && missing.contains("none"), "{missing}");
    }
}
