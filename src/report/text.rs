//! Text for people: strings made harmless, and numbers rounded for the eye.
//!
//! File names, tensor names and messages come from strangers. [`visible`] is the first step of every
//! renderer for people: it turns whatever could move a cursor, hide text or reverse its direction
//! into a printed escape. Escaping for HTML or Markdown comes after it, in their own files.
//! Does not decide what is printed.

use crate::stats::{PKind, PValue};
use std::borrow::Cow;
use std::fmt::Write;

/// Names longer than this many characters are shortened in the middle; JSON holds them whole.
const MAX_NAME_CHARS: usize = 160;

/// Longest prose, in characters, that a report for people prints of one message.
const MAX_PROSE_CHARS: usize = 4000;

/// Whether a character may act on the medium rather than be seen: control codes (C0, DEL, C1),
/// direction overrides and isolates, invisible characters, line separators, tags and variation
/// selectors of the supplement, and non-characters used as interlinear marks.
pub(super) fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{034f}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}')
}

/// The string with every character that could act on the medium printed as an escape, `\n` or
/// `\u{202e}`. Strings that have none are borrowed.
pub fn visible(s: &str) -> Cow<'_, str> {
    if !s.chars().any(is_unsafe) {
        return Cow::Borrowed(s);
    }
    let mut out = String::with_capacity(s.len() + 8);
    for c in s.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_unsafe(c) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// A name from outside: harmless, and shortened in the middle when it is absurdly long.
pub(super) fn name(s: &str) -> String {
    if s.is_empty() {
        return "(empty)".to_owned();
    }
    shorten(&visible(s), MAX_NAME_CHARS)
}

/// Prose that may quote names from outside: line breaks become spaces, the rest as in [`visible`].
pub(super) fn prose(s: &str) -> String {
    let joined = s
        .split(['\n', '\r', '\t'])
        .map(str::trim)
        .filter(|p| !p.is_empty());
    let joined = joined.collect::<Vec<_>>().join(" ");
    shorten(&visible(&joined), MAX_PROSE_CHARS)
}

/// Keeps the first and the last characters of a string longer than `max` characters.
pub(super) fn shorten(s: &str, max: usize) -> String {
    let n = s.chars().count();
    if n <= max || max < 3 {
        return s.to_owned();
    }
    let tail = (max - 1) / 2;
    let head = max - 1 - tail;
    let mut out: String = s.chars().take(head).collect();
    out.push('…');
    out.extend(s.chars().skip(n - tail));
    out
}

/// A count with thousands set apart: `8,030,261,248`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// `1 file`, `3 files`.
pub(super) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

/// A large count in words for the eye: `8.03 B`, `134 M`.
pub(super) fn parameters(n: u64) -> String {
    let n_f = n as f64;
    for (scale, unit) in [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")] {
        if n_f >= scale {
            return format!("{} {unit}", number_to(n_f / scale, 3));
        }
    }
    n.to_string()
}

/// A size in binary units: `1.25 GiB`.
pub(super) fn bytes(n: u64) -> String {
    let n_f = n as f64;
    for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if n >= 1u64 << shift {
            return format!("{} {unit}", number_to(n_f / (1u64 << shift) as f64, 3));
        }
    }
    format!("{n} B")
}

/// A number at four significant digits; whole numbers up to nine digits are printed whole.
pub(super) fn number(x: f64) -> String {
    if x == x.trunc() && x.abs() < 1e9 {
        let n = x.abs() as u64;
        return if x < 0.0 {
            format!("−{}", count(n))
        } else {
            count(n)
        };
    }
    // 0.99997 at four digits would be printed as 1, which says "equal" where it is not.
    if x.abs() < 1.0 && x.abs() > 0.9995 {
        let digits = (-(1.0 - x.abs()).log10()).ceil().clamp(4.0, 15.0) as usize + 1;
        return signed(trim_zeros(&format!("{x:.digits$}")));
    }
    number_to(x, 4)
}

/// A number at `digits` significant digits, in scientific notation when it is far from 1.
fn number_to(x: f64, digits: usize) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    let scientific = format!("{x:.*e}", digits - 1);
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        return signed(&format!("{}e{exponent}", trim_zeros(mantissa)));
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    signed(trim_zeros(&format!("{x:.decimals$}")))
}

/// Zeros after the decimal point that say nothing are dropped.
fn trim_zeros(s: &str) -> &str {
    if s.contains('.') {
        s.trim_end_matches('0').trim_end_matches('.')
    } else {
        s
    }
}

/// A true minus sign, which lines up with digits and is not taken for a hyphen.
fn signed(s: &str) -> String {
    s.strip_prefix('-')
        .map_or_else(|| s.to_owned(), |rest| format!("−{rest}"))
}

/// A value with its interval: `0.031 [0.030, 0.032]`.
pub(super) fn with_interval(value: f64, interval: Option<(f64, f64)>) -> String {
    match interval {
        Some((low, high)) => format!("{} [{}, {}]", number(value), number(low), number(high)),
        None => number(value),
    }
}

/// `p = 3.4e-2172`.
pub(super) fn p_value(p: &PValue) -> String {
    format!("p = {p}")
}

/// How a p-value was obtained, with the count that bounds it.
pub(super) fn p_kind(kind: PKind) -> String {
    match kind {
        PKind::Exact | PKind::Asymptotic => kind.name().to_owned(),
        PKind::Permutation {
            n_permutations: n,
            n_combined: 1,
        } => format!("permutation, {} drawn", count(n)),
        PKind::Permutation {
            n_permutations: n,
            n_combined,
        } => format!(
            "permutation, {} drawn for each of {n_combined} layers",
            count(n)
        ),
        PKind::Calibrated { n_reference: n } => format!("calibrated on {} pairs", count(n)),
    }
}

/// A stable kebab-case or snake-case name as words: `noise-std` → `noise std`.
pub(super) fn words(id: &str) -> String {
    name(&id.replace(['-', '_'], " "))
}

/// An argument as a POSIX shell takes it back. Control characters are shown, not passed: such a
/// command is for reading, and the JSON holds the arguments as they were.
pub(super) fn shell(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=+,%".contains(c);
    let seen = visible(argument);
    if !seen.is_empty() && seen.chars().all(plain) {
        return seen.into_owned();
    }
    format!("'{}'", seen.replace('\'', r"'\''"))
}

/// The command line on one line.
pub(super) fn command_line(argv: &[String]) -> String {
    argv.iter().map(|a| shell(a)).collect::<Vec<_>>().join(" ")
}

/// Prose cut at its backticks: `(text, is_code)`. An odd number of backticks means that one of them
/// came from outside, and then nothing is taken for code.
pub(super) fn segments(s: &str) -> Vec<(&str, bool)> {
    if !s.matches('`').count().is_multiple_of(2) {
        return vec![(s, false)];
    }
    let parts = s.split('`').enumerate().map(|(i, part)| (part, i % 2 == 1));
    parts.filter(|(part, _)| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_act_on_a_terminal_is_printed_as_an_escape() {
        assert_eq!(visible("a\x1b[31mb"), "a\\u{1b}[31mb");
        assert_eq!(visible("a\u{9b}2Jb\u{7f}"), "a\\u{9b}2Jb\\u{7f}");
        assert_eq!(visible("x\u{202e}cod.exe"), "x\\u{202e}cod.exe");
        assert_eq!(visible("one\ntwo\r"), "one\\ntwo\\r");
        assert!(matches!(
            visible("模型/weights-é.safetensors"),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn an_absurd_name_is_shortened_and_keeps_both_ends() {
        let long = format!("model.{}.weight", "x".repeat(100_000));
        let short = name(&long);
        assert!(short.chars().count() <= MAX_NAME_CHARS);
        assert!(short.starts_with("model.") && short.ends_with(".weight") && short.contains('…'));
    }

    #[test]
    fn numbers_keep_four_digits_and_a_number_below_one_is_never_rounded_up_to_one() {
        assert_eq!(number(0.0), "0");
        assert_eq!(number(741.0), "741");
        assert_eq!(number(34_148_369.0), "34,148,369");
        assert_eq!(number(0.123_456), "0.1235");
        assert_eq!(number(-1.5), "−1.5");
        assert_eq!(number(1.0 / 708.0), "0.001412");
        assert_eq!(number(1.234_56e-9), "1.235e-9");
        assert_eq!(number(6.022_14e23), "6.022e23");
        assert_eq!(number(0.999_996), "0.999996");
        assert_ne!(number(1.0 - 1e-12), "1");
        assert_eq!(number(12_345.678), "12346");
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(count(8_030_261_248), "8,030,261,248");
        assert_eq!(parameters(8_030_261_248), "8.03 B");
        assert_eq!(bytes(34_148_369_344), "31.8 GiB");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(plural(1, "file", "files"), "1 file");
    }

    #[test]
    fn arguments_come_back_from_a_shell_as_they_were() {
        assert_eq!(shell("hf:org/name@main"), "hf:org/name@main");
        assert_eq!(shell("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(shell(""), "''");
        assert_eq!(command_line(&["a".into(), "b c".into()]), "a 'b c'");
    }

    #[test]
    fn a_stray_backtick_makes_no_code() {
        assert_eq!(
            segments("the class `A` is"),
            [("the class ", false), ("A", true), (" is", false)]
        );
        assert_eq!(segments("a ` b"), [("a ` b", false)]);
    }

    #[test]
    fn p_values_far_below_the_smallest_double_are_printed() {
        let p = PValue::new(-5000.0, PKind::Exact).unwrap();
        assert_eq!(p_value(&p), "p = 3.4e-2172");
        assert_eq!(
            p_kind(PKind::Calibrated { n_reference: 1410 }),
            "calibrated on 1,410 pairs"
        );
    }
}
