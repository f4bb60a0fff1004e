//! What templates expect of Python: methods, `json.dumps` and `strftime`.

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

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

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| {
            i64::try_from(passed.as_secs()).unwrap_or(i64::MAX)
        })
}

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `strftime` in UTC and English, for the directives that templates use.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> Result<String, Error> {
    let (days, seconds) = (
        unix_seconds.div_euclid(86_400),
        unix_seconds.rem_euclid(86_400),
    );
    // Days to a date, by 400-year eras that begin in March:
    // <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    // March is the 60th day of a year, the 61st of a leap year.
    let of_year = match month > 2 {
        true => day_of_year + 60 + i64::from(is_leap),
        false => day_of_year - 305,
    };
    let day_name = DAYS[(days + 4).rem_euclid(7) as usize];
    let month_name = MONTHS[(month - 1) as usize];
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let twelve = (hour + 11) % 12 + 1;
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(c) = characters.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = characters.next();
        let is_bare = directive == Some('-');
        if is_bare {
            directive = characters.next();
        }
        let number = |n: i64, width: usize| match is_bare {
            true => n.to_string(),
            false => format!("{n:0width$}"),
        };
        let part = match directive {
            Some('Y') => number(year, 4),
            Some('y') => number(year.rem_euclid(100), 2),
            Some('m') => number(month, 2),
            Some('d') => number(day, 2),
            Some('e') => format!("{day:2}"),
            Some('j') => number(of_year, 3),
            Some('H') => number(hour, 2),
            Some('I') => number(twelve, 2),
            Some('M') => number(minute, 2),
            Some('S') => number(second, 2),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('F') => format!("{year:04}-{month:02}-{day:02}"),
            Some('T') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('Z') => "UTC".to_owned(),
            Some('%') => "%".to_owned(),
            other => return Err(invalid(format!("strftime_now: the directive {other:?}"))),
        };
        text.push_str(&part);
    }
    Ok(text)
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

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From Python: datetime.fromtimestamp(n, timezone.utc).strftime(...).
        let format = "%d %b %Y|%A %-d %B|%j|%I:%M %p|%T|%%";
        for (seconds, written) in [
            (0, "01 Jan 1970|Thursday 1 January|001|12:00 AM|00:00:00|%"),
            (
                951_782_400,
                "29 Feb 2000|Tuesday 29 February|060|12:00 AM|00:00:00|%",
            ),
            (
                1_735_689_599,
                "31 Dec 2024|Tuesday 31 December|366|11:59 PM|23:59:59|%",
            ),
            (
                -1,
                "31 Dec 1969|Wednesday 31 December|365|11:59 PM|23:59:59|%",
            ),
        ] {
            assert_eq!(strftime(format, seconds).unwrap(), written);
        }
        assert!(strftime("%Q", 0).is_err());
    }
}
