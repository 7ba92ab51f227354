//! Identifiers that platforms choose or are told. They are opaque: any characters, compared byte by byte.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest identifier that is taken (OSB 2.17, "URL Properties" recommends short ones and sets no bound).
pub const MAX_LENGTH: usize = 255;

/// A text that cannot be an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// It is empty.
    #[error("must not be empty")]
    Empty,
    /// It is longer than [`MAX_LENGTH`] bytes.
    #[error("must be at most {MAX_LENGTH} bytes long")]
    TooLong,
    /// It has control characters, which no database or log line can hold safely.
    #[error("must not contain control characters")]
    Control,
}

fn checked(text: String) -> Result<String, IdError> {
    if text.is_empty() {
        Err(IdError::Empty)
    } else if text.len() > MAX_LENGTH {
        Err(IdError::TooLong)
    } else if text.chars().any(char::is_control) {
        Err(IdError::Control)
    } else {
        Ok(text)
    }
}

macro_rules! identifier {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Its text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                checked(text).map(Self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

identifier! {
    /// An OSB service instance id.
    InstanceId,
    /// An OSB service binding id.
    BindingId,
    /// An OSB service id.
    ServiceId,
    /// An OSB plan id.
    PlanId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_any_printable_text_and_nothing_else() {
        for text in ["a", "e1a2-…", "with space", "../..", "%2F"] {
            assert_eq!(text.parse::<InstanceId>().unwrap().as_str(), text);
        }
        assert_eq!("".parse::<InstanceId>(), Err(IdError::Empty));
        assert_eq!("a\0b".parse::<InstanceId>(), Err(IdError::Control));
        assert_eq!("x".repeat(256).parse::<InstanceId>(), Err(IdError::TooLong));
    }
}
