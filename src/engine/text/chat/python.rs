//! What templates expect of Python: methods of values and `json.dumps`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;

/// Values within values that are written.
const MAX_DEPTH: usize = 100;
/// Bytes that one unit of the interpreter's budget buys.
const BYTES_PER_FUEL: usize = 64;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// A method of Python's strings, lists and maps. Three of those that `pycompat` has can cost more than they
/// are charged for (paddings of any width, containers that show as more text than there is memory) and are
/// paid for here in advance.
pub(super) fn method(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let is_plain = |value: &Value| {
        use ValueKind::{Bool, None, Number, String, Undefined};
        matches!(value.kind(), Bool | None | Number | String | Undefined)
    };
    match (value.as_str(), method, args) {
        (Some(separator), "join", [items]) => return join(state, separator, items),
        (Some(pattern), "format", _) => {
            if !args.iter().all(is_plain) {
                return Err(invalid("format: expected strings and numbers"));
            }
            let longest = args
                .iter()
                .filter_map(|arg| Some(arg.as_str()?.len()))
                .max();
            let n_fields = pattern.matches('{').count();
            let n_bytes = n_fields.saturating_mul(longest.unwrap_or(0).max(32));
            pay(state, n_bytes.saturating_add(widths(pattern)))?;
        }
        (None, "count", [what]) if !is_plain(what) => {
            return Err(invalid("count: expected a string or a number"));
        }
        _ => {}
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// Takes bytes off the interpreter's budget.
fn pay(state: &State, n_bytes: usize) -> Result<(), Error> {
    state.consume_fuel((n_bytes / BYTES_PER_FUEL) as u64)
}

/// Pays for every value that a printed one holds, before it is printed: few lists that hold one another many
/// times over print as more text than there is memory.
pub(super) fn pay_for_text(state: &State, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!(
            "more than {MAX_DEPTH} values in one another"
        )));
    }
    match value.kind() {
        ValueKind::Seq => {
            for item in value.try_iter()? {
                pay(state, BYTES_PER_FUEL)?;
                pay_for_text(state, &item, depth + 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                pay(state, BYTES_PER_FUEL)?;
                pay_for_text(state, &value.get_item(&key)?, depth + 1)?;
            }
        }
        ValueKind::String if depth > 0 => pay(state, value.as_str().map_or(0, str::len))?,
        _ => {}
    }
    Ok(())
}

/// The sum of all numbers within braces, which widths and precisions are among.
fn widths(pattern: &str) -> usize {
    let (mut depth, mut sum, mut number) = (0usize, 0usize, 0usize);
    for c in pattern.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match c.to_digit(10).filter(|_| depth > 0) {
            Some(digit) => number = number.saturating_mul(10).saturating_add(digit as usize),
            None => {
                sum = sum.saturating_add(number);
                number = 0;
            }
        }
    }
    sum.saturating_add(number)
}

/// `str.join`, which takes strings only, as Python's does.
fn join(state: &State, separator: &str, items: &Value) -> Result<Value, Error> {
    let mut joined = String::new();
    for (index, item) in items.try_iter()?.enumerate() {
        let text = item
            .as_str()
            .ok_or_else(|| invalid(format!("join: expected strings, found a {}", item.kind())))?;
        pay(state, BYTES_PER_FUEL + separator.len() + text.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Value::from(joined))
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(state: &State, value: &Value, args: Kwargs) -> Result<String, Error> {
    let indent: Option<Value> = args.get("indent")?;
    let separators: Option<Vec<String>> = args.get("separators")?;
    let writer = Writer {
        state,
        indent: match indent {
            Some(value) if !value.is_none() => Some(match value.as_str() {
                Some(text) => text.to_owned(),
                None => " ".repeat(usize::from(u8::try_from(value)?)),
            }),
            _ => None,
        },
        separators,
        sort_keys: args.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ensure_ascii: args.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    args.assert_all_used()?;
    let mut text = String::new();
    writer.value(&mut text, value, 0)?;
    Ok(text)
}

struct Writer<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    indent: Option<String>,
    separators: Option<Vec<String>>,
    sort_keys: bool,
    ensure_ascii: bool,
}

impl Writer<'_, '_, '_> {
    fn separator(&self, index: usize) -> &str {
        let given = self.separators.as_ref().and_then(|list| list.get(index));
        match (given, index, &self.indent) {
            (Some(text), ..) => text,
            (None, 0, Some(_)) => ",",
            (None, 0, None) => ", ",
            _ => ": ",
        }
    }

    /// A new line at this depth, where lines are broken; paid for as it is written.
    fn line(&self, text: &mut String, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            let n_bytes = 1 + indent.len() * depth;
            pay(self.state, n_bytes)?;
            text.push('\n');
            for _ in 0..depth {
                text.push_str(indent);
            }
        }
        Ok(())
    }

    fn value(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid(format!(
                "tojson: more than {MAX_DEPTH} values in one another"
            )));
        }
        self.state.consume_fuel(1)?;
        match value.kind() {
            ValueKind::None => text.push_str("null"),
            ValueKind::Bool => text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.number(text, value)?,
            ValueKind::String => self.string(text, value.as_str().unwrap_or_default())?,
            ValueKind::Seq | ValueKind::Iterable => self.list(text, value, depth)?,
            ValueKind::Map => self.map(text, value, depth)?,
            other => return Err(invalid(format!("tojson: {other} is nothing that JSON has"))),
        }
        Ok(())
    }

    fn list(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        text.push('[');
        let mut is_empty = true;
        for item in value.try_iter()? {
            if !is_empty {
                text.push_str(self.separator(0));
            }
            is_empty = false;
            self.line(text, depth + 1)?;
            self.value(text, &item, depth + 1)?;
        }
        if !is_empty {
            self.line(text, depth)?;
        }
        text.push(']');
        Ok(())
    }

    fn map(&self, text: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        let mut keys: Vec<Value> = Vec::new();
        for key in value.try_iter()? {
            self.state.consume_fuel(1)?;
            keys.push(key);
        }
        if self.sort_keys {
            keys.sort();
        }
        text.push('{');
        for (index, key) in keys.iter().enumerate() {
            if index > 0 {
                text.push_str(self.separator(0));
            }
            self.line(text, depth + 1)?;
            match key.as_str() {
                Some(key) => self.string(text, key)?,
                None => {
                    // Numbers and truth values become strings; nothing else can be a key.
                    let mut shown = String::new();
                    self.value(&mut shown, key, MAX_DEPTH)?;
                    self.string(text, &shown)?;
                }
            }
            text.push_str(self.separator(1));
            self.value(text, &value.get_item(key)?, depth + 1)?;
        }
        if !keys.is_empty() {
            self.line(text, depth)?;
        }
        text.push('}');
        Ok(())
    }

    fn number(&self, text: &mut String, value: &Value) -> Result<(), Error> {
        if value.is_integer() {
            let _ = write!(text, "{value}");
        } else {
            text.push_str(&float(f64::try_from(value.clone())?));
        }
        Ok(())
    }

    fn string(&self, text: &mut String, value: &str) -> Result<(), Error> {
        pay(self.state, value.len())?;
        text.push('"');
        for c in value.chars() {
            match c {
                '"' => text.push_str("\\\""),
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\r' => text.push_str("\\r"),
                '\t' => text.push_str("\\t"),
                '\u{8}' => text.push_str("\\b"),
                '\u{c}' => text.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(text, "\\u{unit:04x}");
                    }
                }
                c => text.push(c),
            }
        }
        text.push('"');
        Ok(())
    }
}

/// A float as Python's `repr` writes it: the shortest digits, an exponent below 1e-4 and from 1e16.
fn float(number: f64) -> String {
    if !number.is_finite() {
        let sign = if number < 0.0 { "-" } else { "" };
        return match number.is_nan() {
            true => "NaN".to_owned(),
            false => format!("{sign}Infinity"),
        };
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    match plain.contains('.') {
        true => plain,
        false => format!("{plain}.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_does() {
        for (number, written) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123_456_789_012_345.6, "123456789012345.6"),
            (1e-5, "1e-05"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(number), written);
        }
    }
}
