//! Parameters in named groups, gradients by parameter, and how parameters are created.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rand_distr::{Distribution, Normal, Uniform};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor, no_grad_guard};

use crate::error::{Error, Result};
use crate::random::{Purpose, Seed};

/// Names a group of parameters: the unit that is active, frozen or has a learning rate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GroupId {
    /// Encoder of a modality, with its projection if it has one.
    Encoder(String),
    /// A modality's own head.
    Head(String),
    /// The head that all modalities share.
    SharedHead,
    /// The head on joint features, owned by a fusion.
    JointHead,
    /// Other parameters of a fusion.
    Fusion,
    /// Parameters of a fusion at a stage boundary: of one modality, or shared.
    Tap(usize, Option<String>),
    /// Parameters of another plugin.
    Auxiliary(String),
}

impl GroupId {
    /// The modality whose own group this is.
    pub fn modality(&self) -> Option<&str> {
        match self {
            Self::Encoder(modality) | Self::Head(modality) | Self::Tap(_, Some(modality)) => {
                Some(modality)
            }
            _ => None,
        }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoder(modality) => write!(f, "encoder.{modality}"),
            Self::Head(modality) => write!(f, "head.{modality}"),
            Self::SharedHead => f.write_str("shared_head"),
            Self::JointHead => f.write_str("joint_head"),
            Self::Fusion => f.write_str("fusion"),
            Self::Tap(stage, Some(modality)) => write!(f, "tap.{stage}.{modality}"),
            Self::Tap(stage, None) => write!(f, "tap.{stage}.shared"),
            Self::Auxiliary(plugin) => write!(f, "aux.{plugin}"),
        }
    }
}

/// Names a parameter: its group and its whole path, e.g. `head.audio.fc1.weight`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParamId {
    /// Group of the parameter.
    pub group: GroupId,
    /// Path, which starts with the group's name.
    pub path: Arc<str>,
}

impl fmt::Display for ParamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)
    }
}

/// Tensors by parameter, in a fixed order.
pub type ByParam = BTreeMap<ParamId, Tensor>;

/// Gradients (or steps) of the active parameters.
///
/// A parameter that got no gradient is left out; a zero gradient is a gradient.
#[derive(Debug, Default)]
pub struct Grads {
    /// Gradient of the weighted sum of all terms. `[shape of the parameter]`
    pub sum: ByParam,
    /// Gradient of each weighted term, when a modifier asked for terms.
    pub by_term: BTreeMap<String, ByParam>,
}

impl Grads {
    /// Computes the L2 norm over all tensors together, as a 0-d f32 tensor on their device.
    ///
    /// # Errors
    /// [`Error::Bug`] when there is no gradient at all.
    pub fn norm(&self) -> Result<Tensor> {
        global_norm(self.sum.values())
    }
}

/// Computes one L2 norm over several tensors, as a 0-d tensor on their device.
///
/// # Errors
/// [`Error::Bug`] when there is no tensor.
pub fn global_norm<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Result<Tensor> {
    let norms = tensors.into_iter().map(Tensor::f_norm).collect::<Result<Vec<_>, _>>()?;
    if norms.is_empty() {
        return Err(Error::Bug("the norm of no tensor was asked for".to_owned()));
    }
    Ok(Tensor::f_stack(&norms, 0)?.f_norm()?)
}

/// A group's parameters and buffers with its training status.
#[derive(Debug, Default)]
pub struct Group {
    /// Parameters by path; leaves that require gradients.
    pub params: BTreeMap<Arc<str>, Tensor>,
    /// Buffers (running statistics) by path.
    pub buffers: BTreeMap<Arc<str>, Tensor>,
    /// Whether a controller has frozen the group.
    pub frozen: bool,
}

/// All groups of a model.
#[derive(Debug, Default)]
pub struct Parameters {
    groups: BTreeMap<GroupId, Group>,
}

impl Parameters {
    /// Iterates over the groups in order.
    pub fn groups(&self) -> impl Iterator<Item = (&GroupId, &Group)> {
        self.groups.iter()
    }

    /// Looks a group up.
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// Looks a group up, to freeze it.
    pub fn group_mut(&mut self, id: &GroupId) -> Option<&mut Group> {
        self.groups.get_mut(id)
    }

    /// Names of all groups.
    pub fn ids(&self) -> BTreeSet<GroupId> {
        self.groups.keys().cloned().collect()
    }

    /// Looks a parameter's tensor up.
    pub fn value(&self, id: &ParamId) -> Option<&Tensor> {
        self.groups.get(&id.group)?.params.get(&id.path)
    }

    /// Looks a parameter up by its whole path.
    pub fn find(&self, path: &str) -> Option<(ParamId, &Tensor)> {
        self.groups.iter().find_map(|(group, content)| {
            let (path, value) = content.params.get_key_value(path)?;
            Some((ParamId { group: group.clone(), path: path.clone() }, value))
        })
    }

    /// Lists the parameters of the given groups that are not frozen.
    pub fn trainable<'a>(
        &'a self,
        active: &'a BTreeSet<GroupId>,
    ) -> impl Iterator<Item = (ParamId, &'a Tensor)> + 'a {
        self.groups.iter().filter(|(id, group)| active.contains(id) && !group.frozen).flat_map(
            |(id, group)| {
                group
                    .params
                    .iter()
                    .map(|(path, value)| (ParamId { group: id.clone(), path: path.clone() }, value))
            },
        )
    }

    /// Number of scalar parameters of a group.
    pub fn size(&self, id: &GroupId) -> usize {
        self.groups.get(id).map_or(0, |group| group.params.values().map(Tensor::numel).sum())
    }

    /// Copies every parameter and buffer out, under its path.
    ///
    /// # Errors
    /// When libtorch cannot copy (out of memory).
    pub fn export(&self) -> Result<BTreeMap<String, Tensor>> {
        let _guard = no_grad_guard();
        self.tensors().map(|(path, value)| Ok((path.to_string(), value.f_detach_copy()?))).collect()
    }

    /// Overwrites every parameter and buffer, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] when a tensor is missing, superfluous or of another size; nothing is
    /// written then.
    pub fn import(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let _guard = no_grad_guard();
        for (path, live) in self.tensors() {
            let found = values.get(&**path).map(Tensor::size);
            if found.as_ref() != Some(&live.size()) {
                return Err(Error::shape(format!("tensor `{path}`"), live.size(), found));
            }
        }
        if let Some(path) = values.keys().find(|path| !self.tensors().any(|(p, _)| **p == ***path))
        {
            return Err(Error::shape(format!("tensor `{path}`"), "no such tensor", "one"));
        }
        for (path, live) in self.tensors() {
            let mut live = live.shallow_clone();
            live.f_copy_(&values[&**path])?;
        }
        Ok(())
    }

    /// Copies parameters and buffers of some groups out, under their paths.
    ///
    /// # Errors
    /// [`Error::Bug`] when a group does not exist.
    pub fn export_of(&self, groups: &[GroupId]) -> Result<BTreeMap<String, Tensor>> {
        let _guard = no_grad_guard();
        let mut tensors = BTreeMap::new();
        for id in groups {
            let group = self
                .group(id)
                .ok_or_else(|| Error::Bug(format!("the unknown group `{id}` was asked for")))?;
            for (path, value) in group.params.iter().chain(&group.buffers) {
                tensors.insert(path.to_string(), value.f_detach_copy()?);
            }
        }
        Ok(tensors)
    }

    /// Overwrites some parameters and buffers, in place.
    ///
    /// # Errors
    /// [`Error::Shape`] when there is no such tensor or it has another size; nothing is written
    /// then.
    pub fn overwrite(&self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        let _guard = no_grad_guard();
        let mut pairs = Vec::new();
        for (path, live) in self.tensors() {
            if let Some(value) = values.get(&**path) {
                if value.size() != live.size() {
                    let what = format!("tensor `{path}`");
                    return Err(Error::shape(what, live.size(), value.size()));
                }
                pairs.push((live.shallow_clone(), value));
            }
        }
        if pairs.len() < values.len() {
            let known: BTreeSet<&str> = self.tensors().map(|(path, _)| &**path).collect();
            let unknown = values.keys().find(|path| !known.contains(path.as_str()));
            return Err(Error::shape(format!("tensor {unknown:?}"), "no such tensor", "one"));
        }
        for (mut live, value) in pairs {
            live.f_copy_(value)?;
        }
        Ok(())
    }

    fn tensors(&self) -> impl Iterator<Item = (&Arc<str>, &Tensor)> {
        self.groups.values().flat_map(|group| group.params.iter().chain(group.buffers.iter()))
    }
}

/// How a parameter starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Initial {
    /// All entries equal.
    Constant(f64),
    /// Uniform in `[-bound, bound]`.
    Uniform {
        /// Half width of the interval.
        bound: f64,
    },
    /// Gaussian.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation, at least 0.
        deviation: f64,
    },
}

/// Entries of the largest tensor that is created; a larger one is a slip of the keyboard.
const LARGEST_TENSOR: i64 = 1 << 31;

/// Creates parameters under a path; handed to plugins when they build their layers.
///
/// Each parameter's initial values come from a stream named by its path, so they do not depend on
/// the order in which layers are built, nor on the device.
#[derive(Clone)]
pub struct Builder<'a> {
    store: &'a RefCell<Parameters>,
    seed: Seed,
    device: Device,
    group: GroupId,
    path: String,
}

impl<'a> Builder<'a> {
    /// Starts at a group.
    pub fn new(store: &'a RefCell<Parameters>, seed: Seed, device: Device, group: GroupId) -> Self {
        let path = group.to_string();
        Self { store, seed, device, group, path }
    }

    /// Starts at another group of the same model.
    pub fn at(&self, group: GroupId) -> Self {
        Self::new(self.store, self.seed, self.device, group)
    }

    /// Goes one level down the path.
    pub fn sub(&self, name: &str) -> Self {
        Self { path: format!("{}.{name}", self.path), ..self.clone() }
    }

    /// Path so far, e.g. `encoder.audio.layer1`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Device on which tensors are created.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Group of this builder.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// Creates an f32 parameter `name` of the given shape.
    ///
    /// # Errors
    /// [`Error::Bug`] when the path is taken, or libtorch cannot allocate.
    pub fn param(&self, name: &str, shape: &[i64], initial: Initial) -> Result<Tensor> {
        let path = format!("{}.{name}", self.path);
        let value = self.draw(&path, shape, initial)?.f_set_requires_grad(true)?;
        let mut store = self.store.borrow_mut();
        let group = store.groups.entry(self.group.clone()).or_default();
        match group.params.insert(path.as_str().into(), value.shallow_clone()) {
            None => Ok(value),
            Some(_) => Err(Error::Bug(format!("parameter `{path}` was created twice"))),
        }
    }

    /// Creates an f32 buffer `name`: saved with the weights, never trained.
    ///
    /// # Errors
    /// As [`Builder::param`].
    pub fn buffer(&self, name: &str, shape: &[i64], value: f64) -> Result<Tensor> {
        let path = format!("{}.{name}", self.path);
        let value = Tensor::f_full(shape, value, (Kind::Float, self.device))?;
        let mut store = self.store.borrow_mut();
        let group = store.groups.entry(self.group.clone()).or_default();
        match group.buffers.insert(path.as_str().into(), value.shallow_clone()) {
            None => Ok(value),
            Some(_) => Err(Error::Bug(format!("buffer `{path}` was created twice"))),
        }
    }

    fn draw(&self, path: &str, shape: &[i64], initial: Initial) -> Result<Tensor> {
        let count = shape
            .iter()
            .try_fold(1i64, |count, size| count.checked_mul(*size))
            .filter(|count| (0..=LARGEST_TENSOR).contains(count))
            .ok_or_else(|| {
                Error::refused(
                    format!("parameter `{path}` would have the size {shape:?}"),
                    "lower the widths that lead to it; no tensor may have more than 2^31 entries",
                )
            })? as usize;
        let mut stream = self.seed.stream(Purpose::Initialisation, path, &[]);
        let bad = |_| Error::Bug(format!("parameter `{path}` has an impossible initial spread"));
        let values: Vec<f32> = match initial {
            Initial::Constant(value) => vec![value as f32; count],
            Initial::Uniform { bound } => {
                let spread = Uniform::new_inclusive(-bound as f32, bound as f32)
                    .map_err(|_| Error::Bug(format!("parameter `{path}` has no finite bound")))?;
                spread.sample_iter(&mut stream).take(count).collect()
            }
            Initial::Normal { mean, deviation } => {
                let spread = Normal::new(mean as f32, deviation as f32).map_err(bad)?;
                spread.sample_iter(&mut stream).take(count).collect()
            }
        };
        Ok(Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(self.device)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store_with(order: &[&str]) -> Parameters {
        let store = RefCell::new(Parameters::default());
        let head = GroupId::Head("audio".to_owned());
        for name in order {
            let at = Builder::new(&store, Seed(3), Device::Cpu, head.clone());
            let _ = at.sub("fc1").param(name, &[4, 3], Initial::Uniform { bound: 0.5 }).unwrap();
        }
        store.into_inner()
    }

    #[test]
    fn initial_values_depend_on_the_path_not_on_the_order_of_building() {
        let (one, two) = (store_with(&["a", "b"]), store_with(&["b", "a"]));
        for name in ["a", "b"] {
            let path = format!("head.audio.fc1.{name}");
            assert_eq!(one.find(&path).unwrap().1, two.find(&path).unwrap().1);
        }
        let value = |name| one.find(&format!("head.audio.fc1.{name}")).unwrap().1.shallow_clone();
        assert_ne!(value("a"), value("b"));
        assert!(value("a").abs().max().double_value(&[]) <= 0.5);
    }

    #[test]
    fn import_refuses_a_missing_a_superfluous_and_a_misshapen_tensor() {
        let store = store_with(&["a"]);
        let good = store.export().unwrap();
        store.import(&good).unwrap();
        let copy = || store.export().unwrap();
        let mut missing = copy();
        missing.remove("head.audio.fc1.a");
        let mut more = copy();
        more.insert("head.audio.fc9.a".to_owned(), Tensor::zeros([1], tch::kind::FLOAT_CPU));
        let mut misshapen = copy();
        misshapen
            .insert("head.audio.fc1.a".to_owned(), Tensor::zeros([3, 4], tch::kind::FLOAT_CPU));
        for bad in [missing, more, misshapen] {
            let error = store.import(&bad).unwrap_err().to_string();
            assert!(error.contains("head.audio.fc"), "{error}");
        }
    }

    #[test]
    fn frozen_and_inactive_groups_are_not_trainable() {
        let mut store = store_with(&["a"]);
        let head = GroupId::Head("audio".to_owned());
        let active = BTreeSet::from([head.clone()]);
        assert_eq!(store.trainable(&active).count(), 1);
        assert_eq!(store.trainable(&BTreeSet::new()).count(), 0);
        store.group_mut(&head).unwrap().frozen = true;
        assert_eq!(store.trainable(&active).count(), 0);
    }
}
