//! How MiniCPM-V cuts an image: the whole, made smaller, and up to nine slices of it in a grid that
//! keeps its shape, each near a square of one size and divisible by patches.
//!
//! The arithmetic is that of the published code, its roundings included: Python's `round` goes to the
//! even neighbour at a half, `int` cuts towards zero.

use super::picture::Picture;
use super::resize::resize;
use crate::arch::spec::SliceSpec;

/// How an image is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlicePlan {
    /// Width and height of the whole.
    pub whole: (usize, usize),
    /// The grid, where the image is cut.
    pub grid: Option<Grid>,
}

/// A grid of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Columns.
    pub n_columns: usize,
    /// Rows.
    pub n_rows: usize,
    /// Width and height of the image that is cut: multiples of columns and rows.
    pub size: (usize, usize),
}

/// An image, cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slices {
    /// The whole.
    pub whole: Picture,
    /// The slices, row by row.
    pub slices: Vec<Picture>,
    /// Columns and rows of the grid; 0 where the image is not cut.
    pub grid: (usize, usize),
}

/// The multiple of `divisor` next to a length, at least one.
fn ensure_divide(length: f64, divisor: usize) -> usize {
    let divisor = divisor as f64;
    ((length / divisor).round_ties_even() * divisor).max(divisor) as usize
}

/// The size nearest to the wanted area in the shape of `size`.
fn best_size((width, height): (f64, f64), spec: &SliceSpec, enlarge: bool) -> (usize, usize) {
    let (mut width, mut height) = (width, height);
    let resolution = spec.resolution as f64;
    if width * height > resolution * resolution || enlarge {
        let ratio = width / height;
        height = (resolution / ratio.sqrt()).trunc();
        width = (height * ratio).trunc();
    }
    (
        ensure_divide(width, spec.patch_size),
        ensure_divide(height, spec.patch_size),
    )
}

/// The size of the image from which a grid is cut.
fn refined_size(
    width: usize,
    height: usize,
    grid: (usize, usize),
    spec: &SliceSpec,
) -> (usize, usize) {
    let cell = |length: usize, n: usize| ensure_divide(length as f64, n) as f64 / n as f64;
    let cells = (cell(width, grid.0), cell(height, grid.1));
    let best = best_size(cells, spec, true);
    (best.0 * grid.0, best.1 * grid.1)
}

/// The grid of about `n` cells whose shape is nearest to the image's: columns and rows.
fn best_grid(width: usize, height: usize, n: usize, max: usize) -> (usize, usize) {
    let shape = (width as f64 / height as f64).ln();
    let mut best = (1, 1);
    let mut least = f64::INFINITY;
    for n_cells in [n - 1, n, n + 1] {
        if n_cells == 1 || n_cells > max {
            continue;
        }
        for n_columns in (1..=n_cells).filter(|columns| n_cells.is_multiple_of(*columns)) {
            let n_rows = n_cells / n_columns;
            let error = (shape - (n_columns as f64 / n_rows as f64).ln()).abs();
            if error < least {
                (best, least) = ((n_columns, n_rows), error);
            }
        }
    }
    best
}

impl SlicePlan {
    /// How an image of this size is cut.
    ///
    /// # Panics
    /// When a side is 0.
    pub fn new(width: usize, height: usize, spec: &SliceSpec) -> Self {
        assert!(width > 0 && height > 0, "a picture has sides");
        let size = (width as f64, height as f64);
        let area = (spec.resolution * spec.resolution) as f64;
        let n = ((size.0 * size.1 / area).ceil() as usize).min(spec.max_slices);
        if n <= 1 {
            return Self {
                whole: best_size(size, spec, true),
                grid: None,
            };
        }
        let (n_columns, n_rows) = best_grid(width, height, n, spec.max_slices);
        Self {
            whole: best_size(size, spec, false),
            grid: Some(Grid {
                n_columns,
                n_rows,
                size: refined_size(width, height, (n_columns, n_rows), spec),
            }),
        }
    }

    /// Cuts an image.
    ///
    /// # Panics
    /// When the picture has no pixels.
    pub fn cut(&self, picture: &Picture) -> Slices {
        let whole = resize(picture, self.whole.0, self.whole.1);
        let Some(grid) = &self.grid else {
            return Slices {
                whole,
                slices: Vec::new(),
                grid: (0, 0),
            };
        };
        let refined = resize(picture, grid.size.0, grid.size.1);
        let (width, height) = (grid.size.0 / grid.n_columns, grid.size.1 / grid.n_rows);
        let mut slices = Vec::with_capacity(grid.n_columns * grid.n_rows);
        for row in 0..grid.n_rows {
            for column in 0..grid.n_columns {
                slices.push(refined.crop(column * width, row * height, width, height));
            }
        }
        Slices {
            whole,
            slices,
            grid: (grid.n_columns, grid.n_rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: SliceSpec = SliceSpec {
        max_slices: 9,
        resolution: 448,
        patch_size: 14,
    };

    #[test]
    fn a_small_image_is_enlarged_and_not_cut() {
        let plan = SlicePlan::new(1, 1, &SPEC);
        assert_eq!((plan.whole, plan.grid), ((448, 448), None));
    }

    #[test]
    fn rounding_goes_to_the_even_neighbour() {
        assert_eq!(ensure_divide(21.0, 14), 28);
        assert_eq!(ensure_divide(35.0, 14), 28);
        assert_eq!(ensure_divide(0.0, 14), 14);
    }

    #[test]
    fn slices_together_are_the_image_that_is_cut() {
        let picture = Picture {
            width: 900,
            height: 500,
            rgb: (0..900 * 500 * 3).map(|i| (i % 251) as u8).collect(),
        };
        let plan = SlicePlan::new(900, 500, &SPEC);
        let grid = plan.grid.unwrap();
        let cut = plan.cut(&picture);
        let refined = resize(&picture, grid.size.0, grid.size.1);
        assert_eq!(cut.slices.len(), grid.n_columns * grid.n_rows);
        let (width, height) = (cut.slices[0].width, cut.slices[0].height);
        assert!(width % 14 == 0 && height % 14 == 0);
        let last = cut.slices.last().unwrap();
        let theirs = refined.crop(grid.size.0 - width, grid.size.1 - height, width, height);
        assert_eq!(*last, theirs);
    }
}
