//! The file that `--ui-auth` names: who may read, who may act. One login a line, for example
//!
//! ```text
//! read basic guest:SECRET
//! act basic ada:SECRET
//! act token SECRET
//! ```
//!
//! Who may act may read. Secrets are kept as their SHA-256 and never shown.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    Read,
    Act,
}

/// What somebody shows.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Token(String),
    Basic { name: String, password: String },
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Basic { .. } => "Basic(…)",
        })
    }
}

impl Login {
    fn digest(&self) -> [u8; 32] {
        let text = match self {
            Self::Token(token) => format!("token {token}"),
            Self::Basic { name, password } => format!("basic {name}:{password}"),
        };
        Sha256::digest(text.as_bytes()).into()
    }
}

/// A file of logins that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LoginsError {
    #[error("--ui-auth {path} can't be read: {source}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "--ui-auth {path}, line {line}: expected `read` or `act`, then `token SECRET` or `basic NAME:SECRET`"
    )]
    Line { path: PathBuf, line: usize },
    #[error("--ui-auth {path} names no login that may act or read: nobody could see the page")]
    Empty { path: PathBuf },
}

/// All logins.
#[derive(Debug, Clone)]
pub(crate) struct Logins(Vec<(Right, [u8; 32])>);

impl Logins {
    /// Reads the file; blocking.
    pub(crate) fn read(path: &Path) -> Result<Self, LoginsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| LoginsError::Read { path: path.to_owned(), source })?;
        let mut logins = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let login = parse(line).ok_or(LoginsError::Line { path: path.to_owned(), line: number + 1 })?;
            logins.push((login.0, login.1.digest()));
        }
        if logins.is_empty() {
            return Err(LoginsError::Empty { path: path.to_owned() });
        }
        Ok(Self(logins))
    }

    pub(super) fn knows(&self, login: &Login) -> bool {
        self.allows(login, Right::Read)
    }

    /// Takes the same time for every login.
    pub(super) fn allows(&self, login: &Login, right: Right) -> bool {
        let shown = login.digest();
        let found =
            self.0.iter().map(|(has, known)| known.ct_eq(&shown).unwrap_u8() & u8::from(*has >= right));
        found.fold(0, |any, one| any | one) == 1
    }
}

/// The secret is never repeated in an error, so there is none to tell.
fn parse(line: &str) -> Option<(Right, Login)> {
    let mut words = line.splitn(3, ' ');
    let right = match words.next()? {
        "read" => Right::Read,
        "act" => Right::Act,
        _ => return None,
    };
    let kind = words.next()?;
    let secret = words.next().map(str::trim).filter(|secret| !secret.is_empty())?;
    let login = match kind {
        "token" => Login::Token(secret.to_owned()),
        "basic" => {
            let (name, password) = secret.split_once(':')?;
            if name.is_empty() || password.is_empty() {
                return None;
            }
            Login::Basic { name: name.to_owned(), password: password.to_owned() }
        }
        _ => return None,
    };
    Some((right, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Logins, LoginsError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("logins");
        std::fs::write(&path, text).expect("written");
        Logins::read(&path)
    }

    #[test]
    fn who_may_act_may_read_and_not_the_other_way() {
        let logins = file("# people\nread basic guest:pass:word\n\nact token 1234abcd\n").expect("logins");
        let guest = Login::Basic { name: "guest".into(), password: "pass:word".into() };
        let program = Login::Token("1234abcd".into());
        assert!(logins.allows(&guest, Right::Read) && !logins.allows(&guest, Right::Act));
        assert!(logins.allows(&program, Right::Read) && logins.allows(&program, Right::Act));
        for other in [Login::Token("guest:pass:word".into()), Login::Token(String::new())] {
            assert!(!logins.knows(&other));
        }
        assert!(!format!("{guest:?} {logins:?}").contains("pass:word"));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line_and_without_the_secret() {
        for (text, line) in [
            ("read basic guest", 1),
            ("\nwrite token hunter2", 2),
            ("act hunter2", 1),
            ("act basic :hunter2", 1),
            ("act token ", 1),
        ] {
            let error = file(text).expect_err(text).to_string();
            assert!(error.contains(&format!("line {line}")) && !error.contains("hunter2"), "{error}");
        }
        assert!(matches!(file("# nobody\n"), Err(LoginsError::Empty { .. })));
    }
}
