//! Image files → pixels: bytes of red, green and blue, and the numbers that a tower reads.
//!
//! Files are hostile: sides, pixels and memory are capped before anything is decoded. Values are those
//! of `Image.open(…).convert("RGB")` in Pillow, which published preprocessing uses: transparency is
//! dropped, not blended, and the orientation that a camera noted is not applied.

use crate::engine::EngineError;
use image::{DynamicImage, ImageFormat, ImageReader, Limits};
use serde_json::Value;
use std::io::Cursor;

/// Greatest side of a picture, in pixels.
const MAX_SIDE: u32 = 1 << 16;
/// Most pixels of a picture: where Pillow, too, takes a file for a decompression bomb.
const MAX_PIXELS: u64 = 178_956_970;
/// Memory that decoding may take.
const MAX_BYTES: u64 = 1 << 30;

/// A picture of 8-bit colours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Red, green, blue of every pixel, row by row `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// What a tower reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// `[3, height, width]`.
    pub values: Vec<f32>,
}

/// Mean and standard deviation by which bytes become what a tower reads, for red, green and blue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Taken from value / 255.
    pub mean: [f32; 3],
    /// Divides what remains.
    pub std: [f32; 3],
}

impl Normalisation {
    /// To [−1, 1]: SigLIP and MiniCPM-V.
    pub const SIGLIP: Self = Self {
        mean: [0.5; 3],
        std: [0.5; 3],
    };
    /// CLIP's.
    pub const CLIP: Self = Self {
        mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
        std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
    };
}

impl Normalisation {
    /// What `preprocessor_config.json` states; `None` where it states nothing.
    ///
    /// # Errors
    /// When it states what cannot be.
    pub fn read(config: &Value) -> Result<Option<Self>, EngineError> {
        let wrong = || EngineError::Input {
            file: "preprocessor_config.json".to_owned(),
            message: "mean and standard deviation of colours: expected three numbers each, and no \
                      deviation of 0"
                .to_owned(),
        };
        let three = |value: &Value| -> Option<[f32; 3]> {
            let numbers: Option<Vec<f32>> = value
                .as_array()?
                .iter()
                .map(|n| n.as_f64().map(|n| n as f32).filter(|n| n.is_finite()))
                .collect();
            numbers?.try_into().ok()
        };
        for (mean, std) in [("image_mean", "image_std"), ("norm_mean", "norm_std")] {
            if let (Some(mean), Some(std)) = (config.get(mean), config.get(std)) {
                let read = three(mean).zip(three(std));
                let (mean, std) = read
                    .filter(|(_, std)| std.iter().all(|&s| s > 0.0))
                    .ok_or_else(wrong)?;
                return Ok(Some(Self { mean, std }));
            }
        }
        Ok(None)
    }
}

impl Picture {
    /// Decodes a PNG or JPEG file; `name` is what errors call it.
    ///
    /// # Errors
    /// When it is neither, is damaged, or is larger than what is decoded.
    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, EngineError> {
        let wrong = |message: String| EngineError::Input {
            file: name.to_owned(),
            message,
        };
        let open = || {
            let mut reader = ImageReader::new(Cursor::new(bytes))
                .with_guessed_format()
                .map_err(|error| wrong(error.to_string()))?;
            let mut limits = Limits::default();
            limits.max_image_width = Some(MAX_SIDE);
            limits.max_image_height = Some(MAX_SIDE);
            limits.max_alloc = Some(MAX_BYTES);
            reader.limits(limits);
            match reader.format() {
                Some(ImageFormat::Png | ImageFormat::Jpeg) => Ok(reader),
                _ => Err(wrong("neither PNG nor JPEG".to_owned())),
            }
        };
        let (width, height) = open()?
            .into_dimensions()
            .map_err(|error| wrong(error.to_string()))?;
        let n_pixels = u64::from(width) * u64::from(height);
        if n_pixels == 0 || n_pixels > MAX_PIXELS || width > MAX_SIDE || height > MAX_SIDE {
            return Err(wrong(format!(
                "{width} × {height} pixels: at most {MAX_SIDE} a side and {MAX_PIXELS} in all"
            )));
        }
        let image = open()?.decode().map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            width: width as usize,
            height: height as usize,
            rgb: rgb(image).ok_or_else(|| {
                wrong("16-bit grey, whose conversion to 8 bits nobody defines".to_owned())
            })?,
        })
    }

    /// A part of the picture.
    ///
    /// # Panics
    /// When it reaches beyond the picture.
    pub fn crop(&self, left: usize, top: usize, width: usize, height: usize) -> Self {
        let rows = self.rgb.chunks(self.width * 3).skip(top).take(height);
        let rgb: Vec<u8> = rows
            .flat_map(|row| &row[left * 3..(left + width) * 3])
            .copied()
            .collect();
        assert_eq!(rgb.len(), width * height * 3, "a part of the picture");
        Self { width, height, rgb }
    }

    /// What a tower reads: (value / 255 − mean) / std.
    pub fn pixels(&self, by: &Normalisation) -> Pixels {
        let n = self.width * self.height;
        let mut values = vec![0.0; 3 * n];
        for channel in 0..3 {
            let table: Vec<f32> = (0..=255u8)
                .map(|v| (f32::from(v) / 255.0 - by.mean[channel]) / by.std[channel])
                .collect();
            let out = &mut values[channel * n..(channel + 1) * n];
            for (out, pixel) in out.iter_mut().zip(self.rgb.chunks(3)) {
                *out = table[usize::from(pixel[channel])];
            }
        }
        Pixels {
            height: self.height,
            width: self.width,
            values,
        }
    }
}

/// Bytes of red, green and blue; transparency is dropped, and of 16 bits the higher 8 are kept.
fn rgb(image: DynamicImage) -> Option<Vec<u8>> {
    fn grey(values: &[u8], step: usize) -> Vec<u8> {
        let values = values.iter().step_by(step);
        values.flat_map(|&v| [v, v, v]).collect()
    }
    fn high(values: &[u16], step: usize) -> Vec<u8> {
        let pixels = values.chunks(step);
        pixels
            .flat_map(|p| [p[0], p[1], p[2]].map(|v| (v >> 8) as u8))
            .collect()
    }
    Some(match image {
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => image
            .as_raw()
            .chunks(4)
            .flat_map(|p| [p[0], p[1], p[2]])
            .collect(),
        DynamicImage::ImageLuma8(image) => grey(image.as_raw(), 1),
        DynamicImage::ImageLumaA8(image) => grey(image.as_raw(), 2),
        DynamicImage::ImageRgb16(image) => high(image.as_raw(), 3),
        DynamicImage::ImageRgba16(image) => high(image.as_raw(), 4),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn colours_are_scaled_as_the_processor_states() {
        let half = json!({"norm_mean": [0.5, 0.5, 0.5], "norm_std": [0.5, 0.5, 0.5]});
        let read = Normalisation::read(&half).unwrap();
        assert_eq!(read, Some(Normalisation::SIGLIP));
        assert_eq!(Normalisation::read(&json!({})).unwrap(), None);
        for std in [json!([0.5, 0.5]), json!([0.5, 0.5, 0.0]), json!("0.5")] {
            let config = json!({"image_mean": [0.5, 0.5, 0.5], "image_std": std});
            assert!(Normalisation::read(&config).is_err());
        }
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![0, 255, 51, 255, 0, 51],
        };
        let pixels = picture.pixels(&Normalisation::SIGLIP);
        assert_eq!(pixels.values[..4], [-1.0, 1.0, 1.0, -1.0]);
        assert!((pixels.values[4] + 0.6).abs() < 1e-6);
    }
}
