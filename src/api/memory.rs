use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// An amount of memory in whole mebibytes, written as Kubernetes quantities are: `512Mi`, `4Gi`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memory {
    mebibytes: u32,
}

/// A text that is no [`Memory`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of memory: write a whole number of Mi or Gi, such as 512Mi")]
pub struct MemoryError(String);

impl Memory {
    /// That many mebibytes.
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self { mebibytes }
    }

    /// In mebibytes.
    pub const fn mebibytes(self) -> u32 {
        self.mebibytes
    }
}

impl FromStr for Memory {
    type Err = MemoryError;

    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let refused = || MemoryError(text.to_owned());
        let (digits, factor) = match (text.strip_suffix("Mi"), text.strip_suffix("Gi")) {
            (Some(digits), _) => (digits, 1),
            (_, Some(digits)) => (digits, 1024),
            (None, None) => return Err(refused()),
        };
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(refused());
        }
        let number: u32 = digits.parse().map_err(|_| refused())?;
        match number.checked_mul(factor) {
            Some(mebibytes) if mebibytes > 0 => Ok(Self { mebibytes }),
            _ => Err(refused()),
        }
    }
}

impl TryFrom<String> for Memory {
    type Error = MemoryError;

    fn try_from(text: String) -> Result<Self, MemoryError> {
        text.parse()
    }
}

impl From<Memory> for String {
    fn from(memory: Memory) -> Self {
        memory.to_string()
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mebibytes.is_multiple_of(1024) {
            write!(f, "{}Gi", self.mebibytes / 1024)
        } else {
            write!(f, "{}Mi", self.mebibytes)
        }
    }
}

impl JsonSchema for Memory {
    fn schema_name() -> Cow<'static, str> {
        "Memory".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 16, "pattern": "^[1-9][0-9]{0,8}(Mi|Gi)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mebibytes_and_gibibytes_and_writes_the_shorter() {
        for (text, mebibytes, written) in [
            ("64Mi", 64, "64Mi"),
            ("1024Mi", 1024, "1Gi"),
            ("4Gi", 4096, "4Gi"),
            ("1536Mi", 1536, "1536Mi"),
        ] {
            let memory: Memory = text.parse().unwrap();
            assert_eq!(memory.mebibytes(), mebibytes);
            assert_eq!(memory.to_string(), written);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "Mi",
            "0Mi",
            "-1Mi",
            "+1Mi",
            "1.5Gi",
            "64",
            "64M",
            "64mi",
            " 64Mi",
            "99999999999Gi",
            "4194304Gi",
        ] {
            assert_eq!(text.parse::<Memory>(), Err(MemoryError(text.to_owned())), "{text:?}");
        }
    }
}
