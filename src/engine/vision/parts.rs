//! Takes the weights of a connector by the names of its parts, strictly.

use crate::arch::spec::NormSpec;
use crate::arch::{Model, connector};
use crate::engine::EngineError;
use crate::engine::backend::Backend;
use crate::engine::load::{Linear, Norm};
use crate::tensor::{Matrix, Tensor};
use std::collections::BTreeMap;

/// The parts that were not taken yet.
pub(super) struct Parts<'a, B: Backend> {
    backend: &'a B,
    model: &'a str,
    left: BTreeMap<&'a str, &'a Tensor>,
}

impl<'a, B: Backend> Parts<'a, B> {
    /// The parts of a model's connector.
    pub fn of(backend: &'a B, model: &'a Model) -> Result<Self, EngineError> {
        let left = connector::parts(model).ok_or_else(|| {
            EngineError::NotAModel(format!(
                "{}: no connector of a tower to the language model, or several",
                model.label
            ))
        })?;
        Ok(Self {
            backend,
            model: &model.label,
            left,
        })
    }

    fn wrong(&self, name: &str, expected: String, found: String) -> EngineError {
        EngineError::Weight {
            model: self.model.to_owned(),
            role: format!("connector.{name}"),
            expected,
            found,
        }
    }

    /// Whether there is such a part.
    pub fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    /// A matrix `[n_rows, n_cols]`.
    pub fn matrix(
        &mut self,
        name: &str,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Matrix, EngineError> {
        let expected = || format!("a matrix of {n_rows} × {n_cols}");
        let Some(&tensor) = self.left.get(name) else {
            return Err(self.wrong(name, expected(), "nothing".to_owned()));
        };
        let matrix = Matrix::new(tensor.clone())?;
        if (matrix.n_rows(), matrix.n_cols()) != (n_rows, n_cols) {
            let found = format!("{} {:?}", tensor.name(), tensor.shape());
            return Err(self.wrong(name, expected(), found));
        }
        self.left.remove(name);
        Ok(matrix)
    }

    /// The values of a vector, or of a matrix row by row.
    pub fn values(
        &mut self,
        name: &str,
        n_rows: usize,
        n_cols: usize,
    ) -> Result<Vec<f32>, EngineError> {
        let matrix = self.matrix(name, n_rows, n_cols)?;
        let mut values = vec![0.0; n_rows * n_cols];
        matrix.read_rows(0..n_rows, &mut values)?;
        Ok(values)
    }

    /// `name.weight`, and `name.bias` where there is to be one.
    pub fn linear(
        &mut self,
        name: &str,
        n_out: usize,
        n_in: usize,
        bias: bool,
    ) -> Result<Linear<B>, EngineError> {
        let weight = self.matrix(&format!("{name}.weight"), n_out, n_in)?;
        Ok(Linear {
            weight: self.backend.weight(&weight)?,
            bias: bias
                .then(|| self.vector(&format!("{name}.bias"), n_out))
                .transpose()?,
        })
    }

    /// A vector on the device `[1, n]`.
    pub fn vector(&mut self, name: &str, n: usize) -> Result<B::Buffer, EngineError> {
        let values = self.values(name, n, 1)?;
        self.backend.upload(&values, 1, n)
    }

    /// A LayerNorm over `n` columns.
    pub fn norm(&mut self, name: &str, spec: NormSpec, n: usize) -> Result<Norm<B>, EngineError> {
        Ok(Norm {
            spec,
            gain: Some(self.vector(&format!("{name}.weight"), n)?),
            bias: Some(self.vector(&format!("{name}.bias"), n)?),
        })
    }

    /// Ends taking: what is left would be left out of the computation.
    pub fn finish(self) -> Result<(), EngineError> {
        match self.left.iter().next() {
            None => Ok(()),
            Some((name, tensor)) => Err(self.wrong(
                name,
                "nothing, by config.json".to_owned(),
                tensor.name().to_owned(),
            )),
        }
    }
}
