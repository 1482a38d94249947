//! Writes numbers so that every one survives JSON, NaN and infinities included.
//!
//! JSON has no literal for them, and `serde_json` would write `null` without a word. Here a
//! finite number stays a number, and the others become the strings `"NaN"`, `"inf"` and `"-inf"`.
//! The sign and payload of a NaN are not kept.
//!
//! ```
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Spectrum {
//!     #[serde(with = "mie_record::number")]
//!     largest: f64,
//!     #[serde(with = "mie_record::number::option")]
//!     mean: Option<f64>,
//! }
//!
//! let text = serde_json::to_string(&Spectrum { largest: f64::INFINITY, mean: None }).unwrap();
//! assert_eq!(text, r#"{"largest":"inf","mean":null}"#);
//! let read: Spectrum = serde_json::from_str(&text).unwrap();
//! assert!(read.largest.is_infinite());
//! ```

use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes one number; for `#[serde(with = "mie_record::number")]`.
pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    Number(*value).serialize(serializer)
}

/// Reads one number; for `#[serde(with = "mie_record::number")]`.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Number::deserialize(deserializer).map(|number| number.0)
}

/// The same for a number that may be missing.
pub mod option {
    use super::{Deserialize, Deserializer, Number, Serialize, Serializer};

    /// Writes a number or `null`; for `#[serde(with = "mie_record::number::option")]`.
    pub fn serialize<S: Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Number).serialize(serializer)
    }

    /// Reads a number or `null`; for `#[serde(with = "mie_record::number::option")]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Number>::deserialize(deserializer)?.map(|number| number.0))
    }
}

/// The same for numbers by name.
pub mod map {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Number, Serializer};

    /// Writes an object of numbers; for `#[serde(with = "mie_record::number::map")]`.
    pub fn serialize<S: Serializer>(
        values: &BTreeMap<String, f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(name, value)| (name, Number(*value))))
    }

    /// Reads an object of numbers; for `#[serde(with = "mie_record::number::map")]`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, f64>, D::Error> {
        let read = BTreeMap::<String, Number>::deserialize(deserializer)?;
        Ok(read.into_iter().map(|(name, number)| (name, number.0)).collect())
    }
}

/// Carries one number through serde.
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else if self.0.is_nan() {
            serializer.serialize_str("NaN")
        } else {
            serializer.serialize_str(if self.0 > 0.0 { "inf" } else { "-inf" })
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl Visitor<'_> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(r#"a number, "NaN", "inf" or "-inf""#)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Number, E> {
        Ok(Number(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number(value as f64))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Number, E> {
        match value {
            "NaN" => Ok(Number(f64::NAN)),
            "inf" => Ok(Number(f64::INFINITY)),
            "-inf" => Ok(Number(f64::NEG_INFINITY)),
            _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written_and_read(value: f64) -> f64 {
        let text = serde_json::to_string(&Number(value)).unwrap();
        serde_json::from_str::<Number>(&text).unwrap().0
    }

    proptest! {
        #[test]
        fn every_number_is_read_back_to_the_bit(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            let read = written_and_read(value);
            prop_assert!(value.to_bits() == read.to_bits() || value.is_nan() && read.is_nan());
        }
    }

    #[test]
    fn extreme_numbers_are_read_back_to_the_bit() {
        for value in [0.0, -0.0, 5e-324, f64::MAX, f64::MIN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(written_and_read(value).to_bits(), value.to_bits(), "{value}");
        }
        assert!(written_and_read(f64::NAN).is_nan());
    }

    #[test]
    fn a_whole_number_written_by_hand_is_read() {
        assert_eq!(serde_json::from_str::<Number>("3").unwrap().0.to_bits(), 3.0_f64.to_bits());
        assert_eq!(serde_json::from_str::<Number>("-3").unwrap().0.to_bits(), (-3.0_f64).to_bits());
    }

    #[test]
    fn another_string_or_null_is_refused_with_what_is_expected() {
        let error = serde_json::from_str::<Number>(r#""nan""#).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(r#"expected a number, "NaN", "inf" or "-inf""#), "{error}");
        assert!(serde_json::from_str::<Number>("null").is_err());
    }
}
