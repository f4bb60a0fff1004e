//! Text of a model's files as a report may quote it: short, on one line, without control characters.

/// At most `max` characters of a text, control characters escaped; a cut is marked by `…`.
pub(super) fn shorten(text: &str, max: usize) -> String {
    let mut short = String::new();
    for (n, character) in text.chars().enumerate() {
        if n >= max {
            short.push('…');
            break;
        }
        if character.is_control() {
            short.extend(character.escape_default());
        } else {
            short.push(character);
        }
    }
    short
}

/// The first few of a list, quoted, and how many more there are.
pub(super) fn list<S: AsRef<str>>(items: &[S], max: usize) -> String {
    let quoted = items
        .iter()
        .take(max)
        .map(|item| format!("`{}`", shorten(item.as_ref(), 80)));
    let mut text = quoted.collect::<Vec<_>>().join(", ");
    if items.len() > max {
        text.push_str(&format!(" and {} more", items.len() - max));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quote_is_cut_at_a_character_and_cannot_steer_a_terminal() {
        assert_eq!(shorten("größe", 3), "grö…");
        assert_eq!(shorten("a\u{1b}[2J\nb", 20), "a\\u{1b}[2J\\nb");
    }

    #[test]
    fn a_long_list_says_how_much_is_left_out() {
        assert_eq!(list(&["a", "b", "c"], 2), "`a`, `b` and 1 more");
    }
}
