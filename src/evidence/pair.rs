//! Two models side by side: which component stands against which, which tensor against which.

use super::context::{EvidenceError, Settings};
use super::correspondence::{self, Correspondence};
use super::token_lens_matching;
use super::token_profile;
use super::tokens::{self, SharedTokens};
use super::unit_matching::{self, Grids, Outcome, Question};
use super::unit_permutation::{self, ChannelOutcome};
use crate::arch::{Component, ComponentKind, Model, Role, RoleBasis};
use crate::tensor::Matrix;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Two components of the same kind.
#[derive(Debug)]
pub struct ComponentPair {
    /// Id of the component in the reference; names the pair.
    pub id: String,
    /// Of the reference.
    pub reference: Component,
    /// Of the candidate, with roles taken over from the reference where its own names say nothing.
    pub candidate: Component,
    /// Tokens that both vocabularies have, or why there are none.
    pub tokens: SharedTokens,
    /// Corresponding tensors of the two components.
    pub correspondence: Correspondence,
    pub(super) grids: Grids,
    channels: OnceLock<ChannelOutcome>,
}

impl ComponentPair {
    /// Output channels of a network without MLPs; computed once.
    pub(super) fn channels(&self) -> &ChannelOutcome {
        self.channels
            .get_or_init(|| unit_permutation::channels(self))
    }

    /// Gate against up in residual coordinates; computed once.
    pub fn agreement_grid(&self, settings: &Settings) -> &Outcome {
        self.grids.agreement.get_or_init(|| {
            unit_matching::in_residual_coordinates(self, Question::Agreement, settings)
        })
    }

    /// Order of the units in residual coordinates; computed once.
    pub fn order_grid(&self, settings: &Settings) -> &Outcome {
        self.grids
            .order
            .get_or_init(|| unit_matching::in_residual_coordinates(self, Question::Order, settings))
    }

    /// Gate against up through the token lens; computed once.
    pub fn lens_grid(&self, settings: &Settings) -> &Outcome {
        self.grids
            .lens
            .get_or_init(|| token_lens_matching::grid(self, settings))
    }

    /// Roles that both have with equal shapes, in layer order: role, reference, candidate. A dense MLP
    /// stands against the first expert of a mixture. Of matrices that are at hand in part, the wholes have
    /// equal shapes as well, and the rows are the same.
    pub fn common_roles(&self) -> Vec<(Role, &Matrix, &Matrix)> {
        self.reference
            .roles
            .iter()
            .filter_map(|(role, a)| {
                let b = self.candidate.role(*role).or_else(|| {
                    let other = match role.expert {
                        None => Some(0),
                        Some(0) => None,
                        Some(_) => return None,
                    };
                    self.candidate.role(role.of_expert(other))
                })?;
                let shape = |m: &Matrix| (m.n_rows_of_whole(), m.n_rows(), m.n_cols());
                (shape(a) == shape(b) && a.part() == b.part()).then_some((*role, a, b))
            })
            .collect()
    }
}

/// A component without a counterpart: `reference` or `candidate`, and its id.
pub type Unpaired = (&'static str, String);

/// Two models side by side.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The model that came first, as the caller states it.
    pub reference: &'a Model,
    /// The model under suspicion.
    pub candidate: &'a Model,
    /// Components that stand against each other.
    pub components: Vec<ComponentPair>,
    /// Components without a counterpart: side, id.
    pub unpaired: Vec<Unpaired>,
}

/// Components of one kind stand against each other in order; a component without roles may also
/// stand against a backbone of the other model whose names were removed.
fn counterparts<'a>(
    reference: &'a Model,
    candidate: &'a Model,
) -> (Vec<(&'a Component, &'a Component)>, Vec<Unpaired>) {
    let mut open: Vec<&Component> = candidate.components.iter().collect();
    let mut pairs = Vec::new();
    let mut unpaired = Vec::new();
    let mut waiting = Vec::new();
    for a in &reference.components {
        match open.iter().position(|b| b.kind == a.kind) {
            Some(at) => pairs.push((a, open.remove(at))),
            None => waiting.push(a),
        }
    }
    for a in waiting {
        let nameless = |kind| matches!(kind, ComponentKind::Network | ComponentKind::LanguageModel);
        match open
            .iter()
            .position(|b| nameless(a.kind) && nameless(b.kind))
        {
            Some(at) => pairs.push((a, open.remove(at))),
            None => unpaired.push(("reference", a.id.clone())),
        }
    }
    unpaired.extend(open.into_iter().map(|b| ("candidate", b.id.clone())));
    (pairs, unpaired)
}

/// Takes roles over along the correspondence: `named` gives, `nameless` receives.
fn transfer_roles(
    named: &Component,
    nameless: &Component,
    pairs: &[(usize, usize)],
) -> Result<Component, EvidenceError> {
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for &(a, b) in pairs {
        by_name.insert(named.tensors[a].name(), b);
    }
    let mut roles = BTreeMap::new();
    for (role, matrix) in &named.roles {
        let Some(&b) = by_name.get(matrix.tensor().name()) else {
            continue;
        };
        if let Some(view) = matrix.same_view_of(nameless.tensors[b].clone())? {
            roles.insert(*role, view);
        }
    }
    Ok(Component {
        kind: named.kind,
        norm: named.norm,
        basis: RoleBasis::Inferred(format!(
            "its own names say nothing; {} roles were taken over from the other model along the \
             tensor correspondence",
            roles.len()
        )),
        n_layers: named.n_layers,
        hidden_size: named.hidden_size,
        roles,
        ..nameless.clone()
    })
}

impl<'a> Pair<'a> {
    /// Puts two models side by side.
    ///
    /// # Errors
    /// When a tensor that the correspondence samples cannot be read.
    pub fn new(
        reference: &'a Model,
        candidate: &'a Model,
        settings: &Settings,
    ) -> Result<Self, EvidenceError> {
        let (found, unpaired) = counterparts(reference, candidate);
        let mut components = Vec::new();
        for (a, b) in found {
            let knows = |c: &Component| c.basis != RoleBasis::None;
            let by_profile = match (knows(a), knows(b)) {
                (true, false) => token_profile::pairs((reference, a), (candidate, b), settings)?,
                (false, true) => token_profile::pairs((candidate, b), (reference, a), settings)?
                    .into_iter()
                    .map(|(named, nameless)| (nameless, named))
                    .collect(),
                _ => Vec::new(),
            };
            let correspondence = correspondence::find(a, b, &by_profile)?;
            let pairs: Vec<(usize, usize)> = correspondence
                .pairs
                .iter()
                .map(|pair| (pair.reference, pair.candidate))
                .collect();
            let (mut reference_side, mut candidate_side) = (a.clone(), b.clone());
            if knows(a) && !knows(b) {
                candidate_side = transfer_roles(a, b, &pairs)?;
            } else if knows(b) && !knows(a) {
                let swapped: Vec<(usize, usize)> = pairs.iter().map(|&(x, y)| (y, x)).collect();
                reference_side = transfer_roles(b, a, &swapped)?;
            }
            let tokens = tokens::shared(
                (reference, &reference_side),
                (candidate, &candidate_side),
                settings,
            );
            components.push(ComponentPair {
                id: a.id.clone(),
                reference: reference_side,
                candidate: candidate_side,
                tokens,
                correspondence,
                grids: Grids::default(),
                channels: OnceLock::new(),
            });
        }
        Ok(Self {
            reference,
            candidate,
            components,
            unpaired,
        })
    }
}
