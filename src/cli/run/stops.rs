//! Texts at which generation ends, found as the text grows.

/// Text so far, and where it ends if a stop text is in it.
#[derive(Debug)]
pub(super) struct Stops<'a> {
    stop: &'a [String],
    text: String,
    /// Bytes of `text` that were given out.
    shown: usize,
}

impl<'a> Stops<'a> {
    /// Before any text.
    pub fn new(stop: &'a [String]) -> Self {
        Self {
            stop,
            text: String::new(),
            shown: 0,
        }
    }

    /// The text so far, without the stop text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Takes more text; what of it can be shown, and whether it goes on.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.text.push_str(piece);
        let ends = self.stop.iter().filter(|stop| !stop.is_empty());
        let end = ends.filter_map(|stop| self.text.find(stop.as_str())).min();
        if let Some(end) = end {
            self.text.truncate(end);
            return (self.rest(), false);
        }
        // What may be the beginning of a stop text waits.
        let longest = self.stop.iter().map(|stop| stop.len()).max().unwrap_or(0);
        let mut safe = (self.text.len() + 1).saturating_sub(longest.max(1));
        while !self.text.is_char_boundary(safe) {
            safe -= 1;
        }
        let new = self
            .text
            .get(self.shown..safe)
            .unwrap_or_default()
            .to_owned();
        self.shown = self.shown.max(safe);
        (new, true)
    }

    /// What was held back.
    pub fn rest(&mut self) -> String {
        let rest = self.text.get(self.shown..).unwrap_or_default().to_owned();
        self.shown = self.text.len();
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_text_in_two_pieces_is_never_shown() {
        let stop = ["END".to_owned()];
        let mut stops = Stops::new(&stop);
        assert_eq!(stops.push("abcE"), ("ab".to_owned(), true));
        assert_eq!(stops.push("xN"), ("cE".to_owned(), true));
        let (text, go_on) = stops.push("éEND more");
        assert!(!go_on);
        assert_eq!(text, "xNé");
        assert_eq!(stops.text, "abcExNé");
    }

    #[test]
    fn without_stop_texts_everything_is_shown_at_once() {
        let mut stops = Stops::new(&[]);
        assert_eq!(stops.push("héllo"), ("héllo".to_owned(), true));
        assert_eq!(stops.rest(), "");
    }
}
