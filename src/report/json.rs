//! JSON for programs: the contract of `docs/src/report-format.md`, schema version 1.
//!
//! Numbers are written with the fewest digits that give the same `f64` back. Strings keep their
//! value, but characters that could act on a terminal are written as `\uXXXX`, so that the output of
//! `--json` may be looked at. Does not shorten anything: what pages leave out is here.

pub use super::schema::SCHEMA_VERSION;

use super::schema::Document;
use super::text::is_unsafe;
use super::{RenderOptions, Renderer, Report, checked};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter};
use std::io::{self, Write};

/// The JSON Schema (draft 2020-12) of version 1 reports.
pub const SCHEMA: &str = include_str!("../../docs/schema/report-v1.schema.json");

/// The JSON renderer.
#[derive(Debug, Clone, Copy)]
pub struct Json;

impl Renderer for Json {
    fn id(&self) -> &'static str {
        "json"
    }

    fn extension(&self) -> &'static str {
        "json"
    }

    fn render(&self, report: &Report, out: &mut dyn Write, _: &RenderOptions) -> io::Result<()> {
        checked(report)?;
        // Into memory first: an error half-way must not leave half a document.
        let mut text = Vec::new();
        let formatter = Escaping(PrettyFormatter::new());
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        Document::new(report).serialize(&mut serializer)?;
        text.push(b'\n');
        out.write_all(&text)
    }
}

/// Pretty printing that also escapes what JSON itself lets pass: DEL, C1 controls, direction
/// overrides and invisible characters.
struct Escaping(PrettyFormatter<'static>);

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        out: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_unsafe(*c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_array(out)
    }
    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array(out)
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(out, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_array_value(out)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object(out)
    }
    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object(out)
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(out, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.begin_object_value(out)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.0.end_object_value(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;
    use serde_json::{Value, json};

    fn text(report: &Report) -> String {
        let mut out = Vec::new();
        Json.render(report, &mut out, &RenderOptions::default())
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    fn value(report: &Report) -> Value {
        serde_json::from_str(&text(report)).unwrap()
    }

    fn schema() -> Value {
        serde_json::from_str(SCHEMA).unwrap()
    }

    /// The published schema lets unknown keys pass, so that minor versions may add some. For our own
    /// output it is closed: a key that the schema does not describe is a bug.
    fn closed(mut schema: Value) -> Value {
        fn close(v: &mut Value) {
            if let Value::Object(map) = v {
                if map.get("type") == Some(&json!("object"))
                    && map.contains_key("properties")
                    && !map.contains_key("additionalProperties")
                {
                    map.insert("additionalProperties".to_owned(), json!(false));
                }
                map.values_mut().for_each(close);
            } else if let Value::Array(items) = v {
                items.iter_mut().for_each(close);
            }
        }
        close(&mut schema);
        schema
    }

    #[track_caller]
    fn assert_valid(schema: &Value, document: &Value) {
        let validator = jsonschema::draft202012::new(schema).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(document)
            .map(|e| format!("{}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    #[test]
    fn the_published_schema_is_a_valid_schema() {
        assert!(jsonschema::draft202012::meta::is_valid(&schema()));
    }

    #[test]
    fn every_report_is_valid_against_the_schema_and_has_no_key_that_it_does_not_describe() {
        for report in [fixture::report(), fixture::hostile(), fixture::empty()] {
            assert_valid(&schema(), &value(&report));
            assert_valid(&closed(schema()), &value(&report));
        }
    }

    #[test]
    fn the_schema_refuses_documents_that_break_the_contract() {
        let validator = jsonschema::draft202012::new(&schema()).unwrap();
        let good = value(&fixture::report());
        assert!(validator.is_valid(&good));
        let breaks: &[(&str, Value)] = &[
            ("/schema_version", json!("2.0")),
            ("/finding/related", json!("yes")),
            ("/finding/relation", json!("FineTuned")),
            ("/finding/strength", json!(0.97)),
            ("/records/0/status", json!("skipped")),
            ("/records/0/ln_p", json!(0.5)),
            ("/records/0/p_kind", json!("guess")),
            ("/records/0/reason", json!(3)),
            ("/candidate/n_tensors", json!(-1)),
        ];
        for (pointer, bad) in breaks {
            let mut document = good.clone();
            *document.pointer_mut(pointer).unwrap() = bad.clone();
            assert!(
                !validator.is_valid(&document),
                "{pointer} = {bad} was let through"
            );
        }
        for (parent, key) in [
            ("", "finding"),
            ("/records/0", "p_kind"),
            ("/finding", "related"),
        ] {
            let mut document = good.clone();
            document
                .pointer_mut(parent)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .shift_remove(key);
            assert!(
                !validator.is_valid(&document),
                "{parent}/{key} may be missing"
            );
        }
    }

    #[test]
    fn a_failed_record_must_give_a_reason_and_no_number() {
        let validator = jsonschema::draft202012::new(&schema()).unwrap();
        let mut document = value(&fixture::report());
        let records = document["records"].as_array_mut().unwrap();
        let failed = records
            .iter_mut()
            .find(|r| r["status"] == "failed")
            .unwrap();
        assert!(failed.get("ln_p").is_none());
        failed["reason"] = Value::Null;
        assert!(!validator.is_valid(&document));
    }

    #[test]
    fn keys_keep_one_order_and_survive_a_round_trip() {
        let first = text(&fixture::report());
        let parsed: Value = serde_json::from_str(&first).unwrap();
        let second = serde_json::to_string_pretty(&parsed).unwrap() + "\n";
        assert_eq!(first, second);
        let keys: Vec<_> = parsed
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        let expected = [
            "schema_version",
            "tool",
            "run",
            "reference",
            "candidate",
            "finding",
            "records",
            "catalogue",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn numbers_are_written_to_the_last_bit_and_ln_p_does_not_underflow() {
        let text = text(&fixture::report());
        for x in [fixture::LN_P_TINY, fixture::NOISE_STD] {
            assert!(text.contains(&format!("{x:?}")), "{x:?}");
        }
        const { assert!(fixture::LN_P_TINY < -5000.0) };
        assert!(!text.contains("NaN") && !text.contains("inf"));
    }

    #[test]
    fn hostile_strings_keep_their_value() {
        let report = fixture::hostile();
        let text = text(&report);
        assert!(!text.contains('\u{9b}') && !text.contains('\u{202e}') && !text.contains('\x1b'));
        let parsed: Value = serde_json::from_str(&text).unwrap();
        let path = parsed["candidate"]["files"][0]["path"].as_str().unwrap();
        assert_eq!(path, report.candidate.files[0].path);
    }

    #[test]
    fn related_is_null_when_the_evidence_does_not_decide() {
        assert_eq!(value(&fixture::report())["finding"]["related"], json!(true));
        assert_eq!(value(&fixture::empty())["finding"]["related"], Value::Null);
    }
}
