//! What update rules keep for each parameter, and the numbers they multiply tensors by.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use mie_core::prelude::*;

/// A tensor for each parameter, zero until it is first used.
#[derive(Default)]
pub(super) struct PerParameter(BTreeMap<Arc<str>, Tensor>);

impl PerParameter {
    /// Looks the tensor of a parameter up; it has the size and device of `gradient`.
    ///
    /// # Errors
    /// [`Error::Shape`] when a loaded state has another size.
    pub(super) fn of(&mut self, id: &ParamId, gradient: &Tensor) -> Result<&mut Tensor> {
        match self.0.entry(id.path.clone()) {
            Entry::Occupied(entry) => {
                let kept = entry.into_mut();
                if kept.size() != gradient.size() {
                    let what = format!("saved optimizer state of `{id}`");
                    return Err(Error::shape(what, gradient.size(), kept.size()));
                }
                // A state that was loaded lies on the host.
                if kept.device() != gradient.device() {
                    *kept = kept.f_to_device(gradient.device())?;
                }
                Ok(kept)
            }
            Entry::Vacant(entry) => Ok(entry.insert(gradient.f_zeros_like()?)),
        }
    }

    /// Adds a copy of every tensor to `state`, as `kind.path`.
    pub(super) fn save(&self, kind: &str, state: &mut State) -> Result<()> {
        for (path, tensor) in &self.0 {
            state.put(format!("{kind}.{path}"), tensor)?;
        }
        Ok(())
    }

    /// Takes out of `state` what [`PerParameter::save`] put there.
    pub(super) fn take_from(state: &mut State, kind: &str) -> Self {
        let mut mine = BTreeMap::new();
        for (name, tensor) in std::mem::take(&mut state.tensors) {
            match name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('.')) {
                Some(path) => mine.insert(path.into(), tensor),
                None => state.tensors.insert(name, tensor),
            };
        }
        Self(mine)
    }
}

/// A number as a 0-d tensor, which whole-tensor operations take without a temporary.
///
/// It is made anew only when the number, kind or device changes: once a step as a rule.
#[derive(Default)]
pub(super) struct Factor(Option<(f64, Tensor)>);

impl Factor {
    /// Gives `value` in the kind and on the device of `like`.
    pub(super) fn of(&mut self, value: f64, like: &Tensor) -> Result<&Tensor> {
        let (kind, device) = (like.kind(), like.device());
        self.0 = self.0.take().filter(|(made_of, tensor)| {
            made_of.to_bits() == value.to_bits()
                && tensor.kind() == kind
                && tensor.device() == device
        });
        match &mut self.0 {
            Some((_, tensor)) => Ok(tensor),
            empty => Ok(&empty.insert((value, scalar(value, kind, device)?)).1),
        }
    }
}

fn scalar(value: f64, kind: Kind, device: Device) -> Result<Tensor> {
    Ok(Tensor::f_full([0_i64; 0], value, (kind, device))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight() -> ParamId {
        ParamId { group: GroupId::Fusion, path: "fusion.w".into() }
    }

    #[test]
    fn a_saved_tensor_of_another_size_is_refused_by_name() {
        let mut kept = PerParameter::default();
        kept.of(&weight(), &Tensor::from_slice(&[1.0, 2.0])).unwrap();
        let mut state = State::default();
        kept.save("momentum", &mut state).unwrap();
        let mut loaded = PerParameter::take_from(&mut state, "momentum");
        assert!(state.is_empty());
        let gradient = Tensor::from_slice(&[1.0, 2.0, 3.0]);
        let error = loaded.of(&weight(), &gradient).unwrap_err().to_string();
        assert_eq!(error, "saved optimizer state of `fusion.w`: expected [3], found [2]");
    }

    #[test]
    fn a_factor_follows_the_number_and_the_kind() {
        let mut factor = Factor::default();
        let (single, double) = (Tensor::from_slice(&[1.0f32]), Tensor::from_slice(&[1.0]));
        for (value, like) in [(0.1, &single), (0.1, &double), (0.2, &double)] {
            let found = factor.of(value, like).unwrap();
            assert_eq!((found.kind(), found.size()), (like.kind(), vec![]));
            assert!((found.double_value(&[]) - value).abs() < 1e-8);
        }
        let exact = factor.of(0.1, &double).unwrap().double_value(&[]);
        assert_eq!(exact.to_bits(), 0.1f64.to_bits());
    }
}
