//! A digest of an Arrow schema that outlives versions of Arrow.
//!
//! Called by the Parquet writer and by the check of its footer. The digest is stored with each
//! artifact, so its text is our own: neither Arrow's `Debug` output nor its IPC bytes are promised
//! to stay. Metadata is left out: it does not say how to read a value.

use std::fmt::Write as _;

use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

use crate::id::Digest;

/// The digest of names, types and nullability in the order of the columns.
pub fn schema_digest(schema: &Schema) -> Digest {
    // The version comes first: a change of this text is a change of every stored digest.
    let mut text = String::from("headworks arrow schema 1\n");
    for field in schema.fields() {
        write_field(&mut text, field);
        text.push('\n');
    }
    Digest::of(text.as_bytes())
}

fn write_field(text: &mut String, field: &Field) {
    let null = if field.is_nullable() { "null" } else { "required" };
    // The length keeps a name that contains our separators from looking like another schema.
    let written = write!(text, "{}:{} {null} {}", field.name().len(), field.name(), type_name(field.data_type()));
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

/// Our own word for the types that panels and features use; Arrow's for the rest.
fn type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "bool".to_owned(),
        DataType::Int8 => "int8".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::Utf8 => "utf8".to_owned(),
        DataType::Utf8View => "utf8_view".to_owned(),
        DataType::LargeUtf8 => "large_utf8".to_owned(),
        DataType::Binary => "binary".to_owned(),
        DataType::Date32 => "date32".to_owned(),
        DataType::Timestamp(unit, zone) => {
            format!("timestamp({},{})", unit_name(*unit), zone.as_deref().unwrap_or("none"))
        }
        DataType::List(item) => {
            let mut text = String::from("list<");
            write_field(&mut text, item);
            text + ">"
        }
        DataType::Dictionary(key, value) => format!("dictionary<{},{}>", type_name(key), type_name(value)),
        other => format!("arrow:{other}"),
    }
}

fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(fields: Vec<Field>) -> Schema {
        Schema::new(fields)
    }

    #[test]
    fn the_digest_is_fixed_for_all_time() {
        let panel = schema(vec![
            Field::new("series", DataType::Utf8, false),
            Field::new("time", DataType::Date32, false),
            Field::new("demand", DataType::Float64, true),
        ]);
        // Stored artifacts carry this value: a failure here means that old rows stop matching.
        let text = "headworks arrow schema 1\n6:series required utf8\n4:time required date32\n6:demand null float64\n";
        assert_eq!(schema_digest(&panel), Digest::of(text.as_bytes()));
    }

    #[test]
    fn every_difference_that_matters_shows() {
        let base = schema_digest(&schema(vec![Field::new("a", DataType::Int32, false)]));
        for other in [
            vec![Field::new("b", DataType::Int32, false)],
            vec![Field::new("a", DataType::Int64, false)],
            vec![Field::new("a", DataType::Int32, true)],
            vec![Field::new("a", DataType::Timestamp(TimeUnit::Second, None), false)],
            vec![Field::new("a", DataType::Timestamp(TimeUnit::Second, Some("UTC".into())), false)],
            vec![Field::new("a", DataType::Int32, false), Field::new("a", DataType::Int32, false)],
            vec![],
        ] {
            assert_ne!(schema_digest(&schema(other.clone())), base, "{other:?}");
        }
    }
}
