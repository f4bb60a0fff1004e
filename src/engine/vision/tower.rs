//! A vision tower: patches of one image → one row each.
//!
//! Images are computed one by one, each with as many rows as it has patches. What implementations that
//! pad images to a batch compute is the same where padding is masked out of the attention; where it is not,
//! the padding is computed here too.

use super::picture::Pixels;
use super::positions;
use super::{linear, norm};
use crate::arch::spec::{MlpSpec, PatchPositions, VisionSpec};
use crate::arch::{Component, ComponentKind, Model, Role, RoleKind};
use crate::engine::EngineError;
use crate::engine::backend::{AttentionShape, Backend};
use crate::engine::load::{Feed, Layer, Linear, Loader, Norm, Qkv};
use crate::tensor::{Matrix, Tensor};
use std::collections::BTreeSet;

/// Colours of a pixel.
const N_CHANNELS: usize = 3;

/// Parts of names of what towers store and their readers do not use: the head that pools the rows of
/// SigLIP into one vector, and the numbers of positions.
const UNUSED: &[&str] = &["head", "position_ids"];

/// A tower on a device.
pub struct Tower<B: Backend> {
    spec: VisionSpec,
    patches: Linear<B>,
    class_token: Option<B::Buffer>,
    positions: Positions<B>,
    pre_norm: Option<Norm<B>>,
    layers: Vec<Layer<B>>,
    post_norm: Norm<B>,
}

/// Sees the stream before a layer, by the number of the layer.
pub type Tap<'a, B> = dyn FnMut(usize, &<B as Backend>::Buffer) -> Result<(), EngineError> + 'a;

/// Learned positions: on the device to take rows from, or here to be resized.
enum Positions<B: Backend> {
    Table(B::Weight),
    Square(Vec<f32>),
}

/// Towers that see: CLIP's encoder of texts is one in all but this.
fn towers(model: &Model) -> Vec<&Component> {
    let sees = |component: &&Component| {
        let patches = Role::outside(RoleKind::PatchEmbedding);
        component.kind == ComponentKind::VisionTower && component.role(patches).is_some()
    };
    model.components.iter().filter(sees).collect()
}

/// The vision tower of a checkpoint.
///
/// # Errors
/// When there is not exactly one whose roles are known by name.
pub fn vision_tower(model: &Model) -> Result<&Component, EngineError> {
    if !model.missing_shards.is_empty() || !model.has_weights() {
        return Err(EngineError::NotAModel(format!(
            "{}: the weights are not there",
            model.label
        )));
    }
    match towers(model)[..] {
        [tower] => Ok(tower),
        [] => Err(EngineError::NotAModel(format!(
            "{}: there is no vision tower; where it is published elsewhere, name that model with --tower",
            model.label
        ))),
        _ => Err(EngineError::NotAModel(format!(
            "{}: expected one vision tower, found {}",
            model.label,
            towers(model).len()
        ))),
    }
}

/// Gives a model that was published without its tower the tower of another.
///
/// # Errors
/// When it has a tower, or the other has not exactly one.
pub fn adopt_tower(model: &mut Model, other: &Model) -> Result<(), EngineError> {
    if !towers(model).is_empty() {
        return Err(EngineError::Request(format!(
            "{} has a vision tower of its own; run it without --tower",
            model.label
        )));
    }
    model.components.push(vision_tower(other)?.clone());
    Ok(())
}

impl<B: Backend> Tower<B> {
    /// Brings the tower of a model to a device.
    ///
    /// # Errors
    /// When config and checkpoint do not fit each other, or a weight cannot be read or kept.
    pub fn load(model: &Model, spec: VisionSpec, backend: &B) -> Result<Self, EngineError> {
        let component = vision_tower(model)?;
        let mut loader = Loader::new(backend, &model.label, component);
        let hidden = spec.hidden_size;
        let outside = Role::outside;
        loader.expect_layers(spec.layers.len(), 0)?;
        let patch_values = N_CHANNELS * spec.patch_size * spec.patch_size;
        let patches = loader.linear(
            outside(RoleKind::PatchEmbedding),
            hidden,
            patch_values,
            spec.patch_bias,
        )?;
        let class_token = spec
            .class_token
            .then(|| loader.vector(outside(RoleKind::ClassEmbedding), hidden))
            .transpose()?;
        let role = outside(RoleKind::PositionEmbedding);
        let table = loader.matrix(role, spec.n_positions(), hidden)?;
        let positions = if spec.positions == PatchPositions::Resized {
            let mut values = vec![0.0; spec.n_positions() * hidden];
            table.read_rows(0..spec.n_positions(), &mut values)?;
            Positions::Square(values)
        } else {
            Positions::Table(backend.weight(table)?)
        };
        let pre_norm =
            loader.optional_norm(outside(RoleKind::EmbeddingNorm), spec.pre_norm, hidden)?;
        let mut layers = Vec::with_capacity(spec.layers.len());
        for (index, layer) in spec.layers.iter().enumerate() {
            layers.push(loader.layer(index as u32, layer, hidden)?);
        }
        let post_norm = loader.norm(outside(RoleKind::FinalNorm), spec.post_norm, hidden)?;
        loader.refuse_the_rest()?;
        refuse_unknown(model, component)?;
        layers.truncate(spec.output.n_layers);
        Ok(Self {
            spec,
            patches,
            class_token,
            positions,
            pre_norm,
            layers,
            post_norm,
        })
    }

    /// What the tower is.
    pub fn spec(&self) -> &VisionSpec {
        &self.spec
    }

    /// Rows and columns of patches of an image; what does not fill a patch at the right and lower edge
    /// is not seen.
    ///
    /// # Errors
    /// When the tower does not take images of this size.
    pub fn grid(&self, pixels: &Pixels) -> Result<(usize, usize), EngineError> {
        let (patch, size) = (self.spec.patch_size, self.spec.image_size);
        let (n_rows, n_columns) = (pixels.height / patch, pixels.width / patch);
        let whole = [pixels.height, pixels.width]
            .iter()
            .all(|side| side.is_multiple_of(patch));
        let fits = match self.spec.positions {
            PatchPositions::Fixed => pixels.height == size && pixels.width == size,
            PatchPositions::Buckets => n_rows > 0 && n_columns > 0,
            // A strip of patches and a padded edge would be other images.
            PatchPositions::Strip { .. } | PatchPositions::Resized => {
                n_rows > 0 && n_columns > 0 && whole
            }
        };
        if fits && pixels.values.len() == N_CHANNELS * pixels.height * pixels.width {
            return Ok((n_rows, n_columns));
        }
        Err(EngineError::Request(format!(
            "an image of {} × {} pixels: the tower reads {}",
            pixels.width,
            pixels.height,
            match self.spec.positions {
                PatchPositions::Fixed => format!("{size} × {size}"),
                _ => format!("multiples of {patch}"),
            }
        )))
    }

    /// The rows of each image of a batch, with the class token first where the output has it:
    /// `[n_patches (+ 1), hidden_size]`.
    ///
    /// # Errors
    /// When the tower does not take images of this size, or the device fails.
    pub fn forward(&self, backend: &B, batch: &[Pixels]) -> Result<Vec<B::Buffer>, EngineError> {
        let mut length = 0;
        if let PatchPositions::Strip { padded: true } = self.spec.positions {
            for pixels in batch {
                let grid = self.grid(pixels)?;
                length = length.max(grid.0 * grid.1);
            }
        }
        let image = |pixels| self.states(backend, pixels, length, &mut |_, _| Ok(()));
        batch.iter().map(image).collect()
    }

    /// As [`Self::forward`] for one image, in a batch whose images are filled up to `length` patches; `tap`
    /// sees the stream before each layer and after the last that is computed.
    ///
    /// # Errors
    /// As [`Self::forward`], and those of `tap`.
    pub fn states(
        &self,
        backend: &B,
        pixels: &Pixels,
        length: usize,
        tap: &mut Tap<'_, B>,
    ) -> Result<B::Buffer, EngineError> {
        let grid = self.grid(pixels)?;
        let n_patches = grid.0 * grid.1;
        let n_filled = n_patches.max(length);
        let mut patches = unfold(pixels, grid, self.spec.patch_size);
        let n_values = patches.len() / n_patches;
        patches.resize(n_filled * n_values, 0.0);
        let patches = backend.upload(&patches, n_filled, n_values)?;
        let mut x = linear(backend, &patches, &self.patches)?; // [n_filled, hidden_size]
        if let Some(token) = &self.class_token {
            x = backend.stack(&[token.clone(), x])?;
        }
        backend.add(&mut x, &self.positions(backend, grid, n_filled)?, 1.0)?;
        if let Some(pre_norm) = &self.pre_norm {
            x = norm(backend, &x, pre_norm)?;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            tap(index, &x)?;
            block(backend, &mut x, layer)?;
        }
        tap(self.layers.len(), &x)?;
        let output = self.spec.output;
        if output.normed {
            x = norm(backend, &x, &self.post_norm)?;
        }
        let with_token = self.spec.class_token && output.with_class_token;
        let first = usize::from(self.spec.class_token && !with_token);
        let end = n_patches + usize::from(self.spec.class_token);
        if (first, end) != (0, backend.shape(&x).0) {
            let rows: Vec<u32> = (first as u32..end as u32).collect();
            x = backend.gather(&x, &rows)?;
        }
        Ok(x)
    }

    /// Positions of all rows `[n_filled (+ 1), hidden_size]`.
    fn positions(
        &self,
        backend: &B,
        grid: (usize, usize),
        n_filled: usize,
    ) -> Result<B::Buffer, EngineError> {
        let n_side = self.spec.n_side();
        let ids: Vec<u32> = match self.spec.positions {
            PatchPositions::Fixed => (0..self.spec.n_positions() as u32).collect(),
            PatchPositions::Buckets => positions::buckets(grid, n_side),
            PatchPositions::Strip { .. } => positions::buckets((1, n_filled), n_side),
            PatchPositions::Resized => Vec::new(),
        };
        match &self.positions {
            Positions::Table(table) => backend.embed(table, &ids, 1.0),
            Positions::Square(square) => {
                let hidden = self.spec.hidden_size;
                let resized = positions::resized(square, n_side, hidden, grid);
                backend.upload(&resized, grid.0 * grid.1, hidden)
            }
        }
    }
}

/// Patches of an image, row by row, each as a convolution reads it: channel, row, column.
fn unfold(pixels: &Pixels, grid: (usize, usize), patch: usize) -> Vec<f32> {
    let plane = pixels.height * pixels.width;
    let mut values = Vec::with_capacity(grid.0 * grid.1 * N_CHANNELS * patch * patch);
    for row in 0..grid.0 {
        for column in 0..grid.1 {
            for channel in 0..N_CHANNELS {
                for y in 0..patch {
                    let at = channel * plane + (row * patch + y) * pixels.width + column * patch;
                    values.extend_from_slice(&pixels.values[at..at + patch]);
                }
            }
        }
    }
    values
}

/// One layer: x ← x + attention(norm(x)); x ← x + mlp(norm(x)).
fn block<B: Backend>(backend: &B, x: &mut B::Buffer, layer: &Layer<B>) -> Result<(), EngineError> {
    let optional = |x: &B::Buffer, of: Option<&Norm<B>>| match of {
        Some(of) => norm(backend, x, of),
        None => Ok(x.clone()),
    };
    let (Qkv::Full { q, k, v }, Feed::Dense(mlp), MlpSpec::Dense(_)) =
        (&layer.qkv, &layer.feed, &layer.spec.mlp)
    else {
        return Err(EngineError::NotAModel(
            "a layer that is no vision tower's".to_owned(),
        ));
    };
    let normed = optional(x, layer.attention_norm.as_ref())?;
    let (q, k, v) = (
        linear(backend, &normed, q)?,
        linear(backend, &normed, k)?,
        linear(backend, &normed, v)?,
    );
    let spec = &layer.spec.attention;
    let shape = AttentionShape {
        n_heads: spec.n_heads,
        n_kv_heads: spec.n_kv_heads,
        head_dim: spec.head_dim,
        value_dim: spec.value_dim,
        scale: spec.scale,
        softcap: None,
        window: None,
        slopes: None,
        causal: false,
    };
    let attended = attend(backend, &q, &k, &v, &shape)?;
    backend.add(x, &linear(backend, &attended, &layer.output)?, 1.0)?;
    let normed = optional(x, layer.mlp_norm.as_ref())?;
    let mut inner = linear(backend, &normed, &mlp.up)?; // [n_rows, intermediate_size]
    backend.activate(&mut inner, mlp.spec.activation)?;
    backend.add(x, &linear(backend, &inner, &mlp.down)?, 1.0)
}

/// Every row of q over all rows of k and v: `[n_queries, n_heads × value_dim]`.
///
/// A backend's attention is that of the last rows of a text; queries therefore pose as the last tokens of
/// the keys, as many at a time as there are keys.
pub(super) fn attend<B: Backend>(
    backend: &B,
    q: &B::Buffer,
    k: &B::Buffer,
    v: &B::Buffer,
    shape: &AttentionShape,
) -> Result<B::Buffer, EngineError> {
    let (n_queries, n_keys) = (backend.shape(q).0, backend.shape(k).0);
    let mut cache = backend.cache(n_keys, shape.n_kv_heads, shape.head_dim, shape.value_dim)?;
    backend.append(&mut cache, 0, k, v, 0..n_keys)?;
    let mut pieces = Vec::new();
    for start in (0..n_queries).step_by(n_keys.max(1)) {
        let rows = start..n_queries.min(start + n_keys);
        let at = n_keys - rows.len();
        pieces.push(backend.attention(q, rows, &cache, at, shape)?);
    }
    backend.stack(&pieces)
}

/// A tensor that no role reads would be left out of the computation.
fn refuse_unknown(model: &Model, component: &Component) -> Result<(), EngineError> {
    let known: BTreeSet<&str> = component
        .roles
        .values()
        .map(|matrix: &Matrix| matrix.tensor().name())
        .collect();
    let unused = |tensor: &Tensor| tensor.name().split('.').any(|part| UNUSED.contains(&part));
    match component
        .tensors
        .iter()
        .find(|tensor| !known.contains(tensor.name()) && !unused(tensor))
    {
        None => Ok(()),
        Some(tensor) => Err(EngineError::NotAModel(format!(
            "{}: {} is in the vision tower, and the engine does not know what for",
            model.label,
            tensor.name()
        ))),
    }
}
