//! What can be wrong with a configuration, as sentences for the person who wrote it.

use std::fmt;
use std::path::PathBuf;

/// One mistake in a configuration: file, line, key, value and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as the user named it.
    pub file: String,
    /// Line of the key or value, from 1.
    pub line: usize,
    /// The key in full, for example `service.vip`; empty when the text is not TOML at all.
    pub key: String,
    /// The value as it is written in the file, when there is one.
    pub value: Option<String>,
    /// What the value must be instead.
    pub rule: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            key,
            value,
            rule,
        } = self;
        write!(f, "{file}:{line}: ")?;
        match value {
            Some(value) if key.is_empty() => write!(f, "{value}: {rule}"),
            Some(value) => write!(f, "{key} = {value}: {rule}"),
            None if key.is_empty() => write!(f, "{rule}"),
            None => write!(f, "{key}: {rule}"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Why a configuration file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The file cannot be read as text.
    Unreadable {
        /// The file as the user named it.
        path: PathBuf,
        /// Why, in the system's words.
        reason: String,
    },
    /// The text breaks these rules, in the order of their lines; never empty.
    Invalid(Vec<ConfigError>),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { path, reason } => {
                write!(f, "{}: cannot be read: {reason}", path.display())
            }
            Self::Invalid(errors) => {
                for (index, error) in errors.iter().enumerate() {
                    if index > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{error}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for LoadError {}
