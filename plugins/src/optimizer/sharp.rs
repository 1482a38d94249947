//! What optimizers share that look for the worst point nearby.

use std::collections::{BTreeMap, BTreeSet};

use mie_core::prelude::*;

/// How to look for the worst point nearby, and what to step by then.
pub(super) struct Search<'a> {
    /// Displacement from the gradient at the weights themselves.
    pub(super) displacement: &'a dyn Fn(&Grads, &dyn Problem) -> Result<ByParam>,
    /// What of it the second pass sees.
    pub(super) seen: &'a dyn Fn(&ByParam) -> ByParam,
    /// Weight of the second gradient, in `[0, 1]`; the rest is the first one's.
    pub(super) mix: f64,
    /// Whether the second pass is held against unmixed labels.
    pub(super) original_labels: bool,
    /// Whether the second pass draws the dropout masks of the first.
    pub(super) replay_noise: bool,
    /// Whether weights are put back before the step.
    pub(super) restore: bool,
}

/// The problem as the base optimizer sees it: its gradient is that at displaced weights.
pub(super) struct Sharp<'a> {
    inner: &'a mut dyn Problem,
    search: Search<'a>,
    /// Displacement that stays in the weights; empty when they are restored.
    kept: ByParam,
}

impl<'a> Sharp<'a> {
    pub(super) fn new(inner: &'a mut dyn Problem, search: Search<'a>) -> Self {
        Self { inner, search, kept: ByParam::new() }
    }
}

impl Problem for Sharp<'_> {
    fn gradients(&mut self, ask: Ask) -> Result<Grads> {
        let search = &self.search;
        let mixes = search.mix < 1.0;
        // A first gradient that is stepped by is no mere ascent direction: modifiers may want its
        // terms.
        let purpose = if mixes { ask.purpose } else { AskPurpose::Ascent };
        let first = self.inner.gradients(Ask { purpose, ..ask })?;
        if first.sum.is_empty() {
            return Ok(first);
        }
        let displacement = (search.displacement)(&first, self.inner)?;
        let again = Ask {
            original_labels: ask.original_labels || search.original_labels,
            replay_noise: ask.replay_noise || search.replay_noise,
            ..ask
        };
        let seen = (search.seen)(&displacement);
        let second = self.inner.displaced(&seen, &mut |problem| problem.gradients(again))?;
        if !search.restore {
            self.kept = displacement;
        }
        if mixes { mixed(&first, &second, search.mix) } else { Ok(second) }
    }

    fn displaced(&mut self, displacement: &ByParam, inner: &mut Inner<'_>) -> Result<Grads> {
        self.inner.displaced(displacement, inner)
    }

    fn apply(&mut self, gradients: Grads, rule: &mut Rule<'_>) -> Result<()> {
        let kept = std::mem::take(&mut self.kept);
        self.inner.apply(gradients, &mut |context, gradient| {
            rule(context, gradient)?;
            if let Some(displacement) = kept.get(context.id) {
                let _ = gradient.f_add_(displacement)?;
            }
            Ok(())
        })
    }

    fn active(&self) -> Vec<GroupId> {
        self.inner.active()
    }

    fn value(&self, id: &ParamId) -> Option<Tensor> {
        self.inner.value(id)
    }
}

/// Checks the optimizer that makes the step: not another search for the worst point.
pub(super) fn validate_base(base: &dyn OptimizerConfig) -> Result<()> {
    let name = base.typetag_name();
    let expected = "an optimizer that steps by the gradient it is given, e.g. `sgd` or `adam`: a \
                    search for the worst point around the worst point would add up two radii and \
                    make four passes; set one larger `rho` instead";
    ensure_range("base", expected, format!("`{name}`"), base.base().is_none())?;
    base.validate().map_err(|error| match error {
        Error::Range { field, found, expected } => {
            Error::Range { field: format!("base.{field}"), found, expected }
        }
        other => other,
    })
}

/// Computes `(1 - mix) first + mix second`, of the sum and of every term.
fn mixed(first: &Grads, second: &Grads, mix: f64) -> Result<Grads> {
    let _guard = no_grad_guard();
    let none = ByParam::new();
    let terms: BTreeSet<&String> = first.by_term.keys().chain(second.by_term.keys()).collect();
    let mut by_term = BTreeMap::new();
    for term in terms {
        let calm = first.by_term.get(term).unwrap_or(&none);
        let sharp = second.by_term.get(term).unwrap_or(&none);
        by_term.insert(term.clone(), mixed_tensors(calm, sharp, mix)?);
    }
    Ok(Grads { sum: mixed_tensors(&first.sum, &second.sum, mix)?, by_term })
}

/// Mixes tensor by tensor, into new ones: sum and terms may share theirs.
///
/// A tensor that one side lacks counts as zero there.
fn mixed_tensors(first: &ByParam, second: &ByParam, mix: f64) -> Result<ByParam> {
    let mut all = ByParam::new();
    for (id, sharp) in second {
        let gradient = match first.get(id) {
            Some(calm) => calm.f_lerp(sharp, mix)?,
            None => sharp.f_mul_scalar(mix)?,
        };
        all.insert(id.clone(), gradient);
    }
    for (id, calm) in first {
        if !second.contains_key(id) {
            all.insert(id.clone(), calm.f_mul_scalar(1.0 - mix)?);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::assert_close;

    #[test]
    fn terms_are_mixed_like_the_sum_and_a_missing_one_counts_as_zero() {
        let id = ParamId { group: GroupId::Fusion, path: "fusion.w".into() };
        let one = |value: f64| ByParam::from([(id.clone(), Tensor::from_slice(&[value]))]);
        let grads = |sum: f64, term: &str| Grads {
            sum: one(sum),
            by_term: BTreeMap::from([(term.to_owned(), one(sum))]),
        };
        let found = mixed(&grads(1.0, "a"), &grads(2.0, "b"), 0.25).unwrap();
        assert_close(&found.sum[&id], &[1.25], 1e-15);
        assert_close(&found.by_term["a"][&id], &[0.75], 1e-15);
        assert_close(&found.by_term["b"][&id], &[0.5], 1e-15);
    }
}
