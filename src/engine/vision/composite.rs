//! A vision-language model: tower, connector and decoder of one checkpoint.

use super::picture::{Normalisation, Picture, Pixels};
use super::projector::Projector;
use super::resampler::Resampler;
use super::resize::resize;
use super::slices::SlicePlan;
use super::tower::Tower;
use crate::arch::spec::{ConnectorSpec, ImageSpec, SquareFit, VisionLanguageSpec};
use crate::arch::{ComponentKind, Model};
use crate::engine::backend::Backend;
use crate::engine::{Decoder, EngineError};

/// A vision-language model on a device.
pub struct VisionLanguage<B: Backend> {
    spec: VisionLanguageSpec,
    tower: Tower<B>,
    connector: Connector<B>,
    decoder: Decoder<B>,
}

enum Connector<B: Backend> {
    Resampler(Resampler<B>),
    Projector(Projector<B>),
}

/// An image as the tower reads it: the whole, then its slices row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Prepared {
    /// The whole, then the slices.
    pub images: Vec<Pixels>,
    /// Columns and rows of slices; 0 where there are none.
    pub grid: (usize, usize),
}

impl<B: Backend> VisionLanguage<B> {
    /// Brings a model to a device. `watch` hears the number of every loaded layer of the decoder.
    ///
    /// # Errors
    /// When config and checkpoint do not fit each other, or a weight cannot be read or kept.
    pub fn load(
        model: &Model,
        spec: VisionLanguageSpec,
        backend: B,
        watch: &mut dyn FnMut(usize),
    ) -> Result<Self, EngineError> {
        refuse_others(model)?;
        let tower = Tower::load(model, spec.vision.clone(), &backend)?;
        let connector = match &spec.connector {
            ConnectorSpec::Resampler(spec) => {
                Connector::Resampler(Resampler::load(model, *spec, &backend)?)
            }
            ConnectorSpec::Projector(spec) => {
                Connector::Projector(Projector::load(model, *spec, &backend)?)
            }
        };
        let decoder = Decoder::load(model, spec.language.clone(), backend, watch)?;
        Ok(Self {
            spec,
            tower,
            connector,
            decoder,
        })
    }

    /// What the model is.
    pub fn spec(&self) -> &VisionLanguageSpec {
        &self.spec
    }

    /// The decoder: it takes the rows of images as [`crate::engine::Piece::Vectors`].
    pub fn decoder(&self) -> &Decoder<B> {
        &self.decoder
    }

    /// The tower.
    pub fn tower(&self) -> &Tower<B> {
        &self.tower
    }

    /// How the published preprocessing scales colours for this tower.
    pub fn normalisation(&self) -> Normalisation {
        match self.spec.vision.class_token {
            true => Normalisation::CLIP,
            false => Normalisation::SIGLIP,
        }
    }

    /// Cuts, resizes and scales a picture as published.
    ///
    /// # Errors
    /// When the picture has no pixels.
    pub fn prepare(&self, picture: &Picture, by: &Normalisation) -> Result<Prepared, EngineError> {
        if picture.width == 0 || picture.height == 0 {
            return Err(EngineError::Request("a picture without pixels".to_owned()));
        }
        match &self.spec.images {
            ImageSpec::Sliced(spec) => {
                let cut = SlicePlan::new(picture.width, picture.height, spec).cut(picture);
                let images = std::iter::once(&cut.whole).chain(&cut.slices);
                Ok(Prepared {
                    images: images.map(|image| image.pixels(by)).collect(),
                    grid: cut.grid,
                })
            }
            ImageSpec::Square { size, fit, .. } => {
                let square = match fit {
                    SquareFit::Middle => middle(picture, *size),
                    SquareFit::Stretched => resize(picture, *size, *size),
                    SquareFit::Padded => resize(&padded(picture, by), *size, *size),
                };
                Ok(Prepared {
                    images: vec![square.pixels(by)],
                    grid: (0, 0),
                })
            }
        }
    }

    /// The rows that each image of a text becomes `[n_rows, hidden_size]`: as many as the resampler has
    /// queries, or as the tower has patches. Where a model fills images up to a batch, the images of one
    /// text are the batch: hand in all of them, in order, wholes and slices.
    ///
    /// # Errors
    /// When the tower does not take images of this size, or the device fails.
    pub fn rows(&self, images: &[Pixels]) -> Result<Vec<B::Buffer>, EngineError> {
        let backend = self.decoder.backend();
        let rows = self.tower.forward(backend, images)?;
        let connect = |(x, pixels): (&B::Buffer, &Pixels)| match &self.connector {
            Connector::Projector(projector) => projector.forward(backend, x),
            Connector::Resampler(resampler) => {
                resampler.forward(backend, x, self.tower.grid(pixels)?)
            }
        };
        rows.iter().zip(images).map(connect).collect()
    }
}

/// The middle square of a picture whose shorter side was made `size` long, as CLIP's preprocessing does it.
fn middle(picture: &Picture, size: usize) -> Picture {
    let (width, height) = (picture.width, picture.height);
    let short = width.min(height);
    let scaled = |side: usize| size * side / short;
    let resized = resize(picture, scaled(width), scaled(height));
    let left = (resized.width - size) / 2;
    let top = (resized.height - size) / 2;
    resized.crop(left, top, size, size)
}

/// A picture in the middle of a square of the mean colour, as LLaVA's code makes it.
fn padded(picture: &Picture, by: &Normalisation) -> Picture {
    let (width, height) = (picture.width, picture.height);
    let side = width.max(height);
    let colour = by.mean.map(|mean| (f64::from(mean) * 255.0) as u8);
    let mut rgb = colour.repeat(side * side);
    let (left, top) = ((side - width) / 2, (side - height) / 2);
    for (row, pixels) in picture.rgb.chunks(3 * width).enumerate() {
        let at = 3 * ((top + row) * side + left);
        rgb[at..at + pixels.len()].copy_from_slice(pixels);
    }
    Picture {
        width: side,
        height: side,
        rgb,
    }
}

/// Tensors of no tower, connector or decoder would be left out of the computation.
fn refuse_others(model: &Model) -> Result<(), EngineError> {
    let other = |kind| {
        !matches!(
            kind,
            ComponentKind::LanguageModel | ComponentKind::VisionTower | ComponentKind::Projector
        )
    };
    match model.components.iter().find(|c| other(c.kind)) {
        None => Ok(()),
        Some(component) => Err(EngineError::NotAModel(format!(
            "{}: {} is in no tower, connector or decoder",
            model.label,
            component
                .tensors
                .first()
                .map_or("a component without tensors", |tensor| tensor.name())
        ))),
    }
}
