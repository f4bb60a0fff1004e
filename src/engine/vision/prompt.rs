//! Where images stand in a text: the words that leave room for them, and the pieces that a decoder reads.
//!
//! As published, a text is written with its room for images first, and then becomes tokens as a whole.

use crate::arch::spec::{ConnectorSpec, ImageSpec, VisionLanguageSpec};
use crate::engine::backend::Backend;
use crate::engine::{EngineError, Piece};
use std::ops::Range;

/// Before the rows of an image, and in LLaVA in place of each of them.
const IMAGE: &str = "<image>";
/// After the rows of an image.
const IMAGE_END: &str = "</image>";
/// In place of a row.
const PLACE: &str = "<unk>";

/// Makes tokens of a text, or of a piece of one; it hears whether the piece is the first.
pub type Encode<'a, E> = dyn FnMut(&str, bool) -> Result<Vec<u32>, E> + 'a;

/// Tokens by which images are found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// MiniCPM-V: an image is what stands between two tokens.
    Bounded {
        /// `<image>`.
        start: u32,
        /// `</image>`.
        end: u32,
    },
    /// LLaVA: a token stands for one row of an image.
    Repeated(u32),
    /// LLaVA as its authors publish it: a text is cut where an image stands, and each piece becomes tokens alone.
    Cut {
        /// Rows of an image.
        n_rows: usize,
    },
}

/// In place of a row where no token of the vocabulary stands for one; no vocabulary is so large.
const NO_TOKEN: u32 = u32::MAX;

/// A prompt with rooms for images ([`VisionLanguageSpec::room`]): where it says `<image>`, once for each, else all
/// before it, each on a line.
///
/// # Errors
/// When it says so more or less often than there are rooms.
pub fn with_rooms(prompt: &str, rooms: &[String]) -> Result<String, EngineError> {
    let mut pieces = prompt.split(IMAGE);
    let first = pieces.next().unwrap_or_default();
    let rest: Vec<&str> = pieces.collect();
    if rest.is_empty() {
        let lines: String = rooms.iter().map(|room| format!("{room}\n")).collect();
        return Ok(lines + prompt);
    }
    if rest.len() != rooms.len() {
        return Err(EngineError::Request(format!(
            "{} places for pictures ({IMAGE}) in the prompt, and {} pictures",
            rest.len(),
            rooms.len()
        )));
    }
    let filled = rooms
        .iter()
        .zip(rest)
        .map(|(room, piece)| format!("{room}{piece}"));
    Ok(first.to_owned() + &filled.collect::<String>())
}

impl VisionLanguageSpec {
    /// Rows that an image, or a slice of one, becomes.
    pub fn n_rows(&self) -> usize {
        match &self.connector {
            ConnectorSpec::Resampler(spec) => spec.n_queries,
            ConnectorSpec::Projector(_) => {
                let with_token = self.vision.output.with_class_token;
                self.vision.n_side() * self.vision.n_side() + usize::from(with_token)
            }
        }
    }

    /// The words that leave room for an image cut into `grid` columns and rows of slices: the whole, then
    /// the slices, a line of text for every row of them. In MiniCPM-V's chats a new line and the question
    /// follow.
    pub fn room(&self, grid: (usize, usize)) -> String {
        match self.images {
            ImageSpec::Square { token: None, .. } => return IMAGE.to_owned(),
            ImageSpec::Square { .. } => return IMAGE.repeat(self.n_rows()),
            ImageSpec::Sliced(_) => {}
        }
        let image = format!("{IMAGE}{}{IMAGE_END}", PLACE.repeat(self.n_rows()));
        if grid.0 * grid.1 == 0 {
            return image;
        }
        let lines = vec![image.repeat(grid.0); grid.1].join("\n");
        format!("{image}<slice>{lines}</slice>")
    }
}

impl Marks {
    /// The marks of a model; `token` knows the number of a special token.
    ///
    /// # Errors
    /// When the tokenizer lacks a mark.
    pub fn of(
        spec: &VisionLanguageSpec,
        token: impl Fn(&str) -> Option<u32>,
    ) -> Result<Self, EngineError> {
        if let ImageSpec::Square { token, .. } = spec.images {
            return Ok(match token {
                Some(token) => Self::Repeated(token),
                None => Self::Cut {
                    n_rows: spec.n_rows(),
                },
            });
        }
        let known = |name: &str| {
            token(name).ok_or_else(|| {
                EngineError::Request(format!("the tokenizer has no {name}, which marks images"))
            })
        };
        Ok(Self::Bounded {
            start: known(IMAGE)?,
            end: known(IMAGE_END)?,
        })
    }

    /// Tokens of a text with room for images.
    ///
    /// # Errors
    /// Those of `encode`.
    pub fn encode<E>(&self, text: &str, encode: &mut Encode<'_, E>) -> Result<Vec<u32>, E> {
        let Self::Cut { n_rows } = self else {
            return encode(text, true);
        };
        let mut tokens = Vec::new();
        for (number, piece) in text.split(IMAGE).enumerate() {
            if number > 0 {
                tokens.extend(std::iter::repeat_n(NO_TOKEN, *n_rows));
            }
            tokens.extend(encode(piece, number == 0)?);
        }
        Ok(tokens)
    }

    /// The token that stands for one row of an image, if rows and not images have marks.
    fn of_row(&self) -> Option<u32> {
        match self {
            Self::Bounded { .. } => None,
            Self::Repeated(token) => Some(*token),
            Self::Cut { .. } => Some(NO_TOKEN),
        }
    }

    /// Where images stand in a text, first to last.
    ///
    /// # Errors
    /// When an image begins and does not end, or ends and did not begin.
    fn places(&self, tokens: &[u32]) -> Result<Vec<Range<usize>>, EngineError> {
        let mut places: Vec<Range<usize>> = Vec::new();
        match self {
            Self::Repeated(_) | Self::Cut { .. } => {
                let token = self.of_row();
                let at = tokens.iter().enumerate();
                let at = at.filter(|(_, t)| Some(**t) == token);
                for (at, _) in at {
                    match places.last_mut() {
                        Some(place) if place.end == at => place.end += 1,
                        _ => places.push(at..at + 1),
                    }
                }
            }
            Self::Bounded { start, end } => {
                let unpaired = || {
                    EngineError::Request(
                        "marks of images do not pair: each image has a start and an end".to_owned(),
                    )
                };
                let mut open = None;
                for (at, token) in tokens.iter().enumerate() {
                    if token == start {
                        if open.replace(at + 1).is_some() {
                            return Err(unpaired());
                        }
                    } else if token == end {
                        places.push(open.take().ok_or_else(unpaired)?..at);
                    }
                }
                if open.is_some() {
                    return Err(unpaired());
                }
            }
        }
        Ok(places)
    }

    /// The pieces of a text whose room for images is filled with their rows, in order: `images` hold
    /// `[n_rows, hidden_size]` each. The whole of an image and each of its slices are one of `images`.
    ///
    /// # Errors
    /// When the text leaves room for more or fewer images, or rows, than there are.
    pub fn pieces<'a, B: Backend>(
        &self,
        backend: &B,
        tokens: &'a [u32],
        images: &[B::Buffer],
    ) -> Result<Vec<Piece<'a, B>>, EngineError> {
        let mut places = self.places(tokens)?;
        if self.of_row().is_some() {
            places = self.divide(
                places,
                &images
                    .iter()
                    .map(|i| backend.shape(i).0)
                    .collect::<Vec<_>>(),
            );
        }
        if places.len() != images.len() {
            return Err(EngineError::Request(format!(
                "a text with room for {} images, and {} images",
                places.len(),
                images.len()
            )));
        }
        let mut pieces = Vec::with_capacity(2 * images.len() + 1);
        let mut at = 0;
        for (number, (place, image)) in places.into_iter().zip(images).enumerate() {
            let n_rows = backend.shape(image).0;
            if place.len() != n_rows {
                return Err(EngineError::Request(format!(
                    "image {number}: {n_rows} rows, and a text with room for {}",
                    place.len()
                )));
            }
            if at < place.start {
                pieces.push(Piece::Tokens(&tokens[at..place.start]));
            }
            pieces.push(Piece::Vectors(image.clone()));
            at = place.end;
        }
        if at < tokens.len() {
            pieces.push(Piece::Tokens(&tokens[at..]));
        }
        Ok(pieces)
    }

    /// Cuts runs of tokens that hold several images, one after the other, at the rows that these have.
    fn divide(&self, runs: Vec<Range<usize>>, n_rows: &[usize]) -> Vec<Range<usize>> {
        let mut n_rows = n_rows.iter().copied();
        let mut places = Vec::new();
        for run in runs {
            let mut at = run.start;
            while at < run.end {
                let n = n_rows.next().unwrap_or(run.end - at).clamp(1, run.end - at);
                places.push(at..at + n);
                at += n;
            }
        }
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cpu::Cpu;

    const BOUNDED: Marks = Marks::Bounded { start: 91, end: 92 };

    fn shape(marks: &Marks, tokens: &[u32], n_rows: &[usize]) -> Result<Vec<i64>, String> {
        let backend = Cpu::<f32>::with_budget(0);
        let images: Vec<_> = n_rows
            .iter()
            .map(|&n| backend.upload(&vec![0.0; n], n, 1).unwrap())
            .collect();
        let pieces = marks
            .pieces(&backend, tokens, &images)
            .map_err(|error| error.to_string())?;
        // Tokens count up, rows count down.
        let length = |piece: &Piece<'_, Cpu<f32>>| match piece {
            Piece::Tokens(tokens) => tokens.len() as i64,
            Piece::Vectors(rows) => -(backend.shape(rows).0 as i64),
        };
        Ok(pieces.iter().map(length).collect())
    }

    #[test]
    fn rows_stand_where_the_text_leaves_room() {
        let text = [1, 91, 0, 0, 92, 5, 91, 0, 92];
        assert_eq!(shape(&BOUNDED, &text, &[2, 1]), Ok(vec![2, -2, 3, -1, 1]));
        let repeated = Marks::Repeated(7);
        assert_eq!(
            shape(&repeated, &[7, 7, 7, 1, 7], &[2, 1, 1]),
            Ok(vec![-2, -1, 1, -1])
        );
    }

    #[test]
    fn other_room_than_rows_is_an_error() {
        let text = [1, 91, 0, 0, 92];
        for n_rows in [&[][..], &[1], &[3], &[2, 2]] {
            assert!(shape(&BOUNDED, &text, n_rows).is_err(), "{n_rows:?}");
        }
        for text in [&[91, 0][..], &[0, 92], &[91, 91, 0, 92, 92]] {
            assert!(shape(&BOUNDED, text, &[1]).is_err(), "{text:?}");
        }
        for n_rows in [&[][..], &[1], &[3], &[2, 2]] {
            assert!(
                shape(&Marks::Repeated(7), &[7, 7, 1], n_rows).is_err(),
                "{n_rows:?}"
            );
        }
    }
}
