//! What several fusions share.

use mie_core::prelude::*;

/// Stacks the logits of the modalities that ran: `[modalities, batch, classes]`, alphabetically.
pub(super) fn stack(logits: &ByModality<Tensor>) -> Result<Tensor> {
    if logits.is_empty() {
        return Err(Error::shape("unimodal logits to join", "at least one modality", "none"));
    }
    let logits: Vec<&Tensor> = logits.values().collect();
    Ok(Tensor::f_stack(&logits, 0)?)
}

/// Mean over the modalities of `[modalities, batch, classes]`.
pub(super) fn mean_over_modalities(stacked: &Tensor) -> Result<Tensor> {
    Ok(stacked.f_mean_dim(0i64, false, None::<Kind>)?)
}

/// Looks up the joint logits that a decision is taken on.
pub(super) fn joint_or_error<'a>(fusion: &str, outputs: &'a Outputs) -> Result<&'a Tensor> {
    outputs.joint.as_ref().ok_or_else(|| {
        Error::shape(
            format!("features for the joint logits of fusion `{fusion}`"),
            "all modalities of the run",
            outputs.features.keys().collect::<Vec<_>>(),
        )
    })
}

/// One modality with a part of its own, and the others brought to one width.
pub(super) struct Conditioned {
    first: String,
    widths: ByModality<i64>,
    /// Linear layers to the common width, for the modalities that have one.
    maps: ByModality<Linear>,
    width: i64,
}

impl Conditioned {
    /// Takes the named modality, or the first; a single other modality is left as it is, several
    /// get layers to the width of the widest of them.
    pub(super) fn new(
        option: &str,
        named: Option<&str>,
        context: &FusionContext<'_>,
    ) -> Result<Self> {
        let mut roles = Self::bare(option, named, context)?;
        let others = roles.widths.iter().filter(|(name, _)| **name != roles.first);
        roles.width = others.map(|(_, width)| *width).max().unwrap_or_default();
        if roles.widths.len() > 2 {
            roles.map(context, |name, first| name != first)?;
        }
        Ok(roles)
    }

    /// Takes the named modality, or the first; all get layers to the width of the widest.
    pub(super) fn mapping_all(
        option: &str,
        named: Option<&str>,
        context: &FusionContext<'_>,
    ) -> Result<Self> {
        let mut roles = Self::bare(option, named, context)?;
        roles.map(context, |_, _| true)?;
        Ok(roles)
    }

    fn bare(option: &str, named: Option<&str>, context: &FusionContext<'_>) -> Result<Self> {
        let widths = context.widths.clone();
        let names: Vec<&String> = widths.keys().collect();
        if names.len() < 2 {
            return Err(Error::refused(
                format!("this fusion needs two modalities, and the run has {names:?}"),
                "add a modality, or choose another fusion",
            ));
        }
        let first = match named {
            None => names[0].clone(),
            Some(name) if widths.contains_key(name) => name.to_owned(),
            Some(name) => {
                return Err(Error::refused(
                    format!("`{option}` names `{name}`, which the run does not have"),
                    format!("name one of {names:?}"),
                ));
            }
        };
        let width = widths.values().copied().max().unwrap_or_default();
        Ok(Self { first, widths, maps: ByModality::new(), width })
    }

    fn map(
        &mut self,
        context: &FusionContext<'_>,
        wanted: impl Fn(&str, &str) -> bool,
    ) -> Result<()> {
        let at = context.at.at(GroupId::Fusion).sub("inputs");
        for (name, width) in &self.widths {
            if wanted(name, &self.first) {
                self.maps.insert(name.clone(), Linear::new(&at.sub(name), *width, self.width)?);
            }
        }
        Ok(())
    }

    /// Width that the others are brought to.
    pub(super) fn width(&self) -> i64 {
        self.width
    }

    /// Width of the first modality's feature.
    pub(super) fn first_width(&self) -> i64 {
        self.widths.get(&self.first).copied().unwrap_or_default()
    }

    /// The first modality's feature and the mean of the others, mapped where there are several;
    /// `None` when one did not run.
    pub(super) fn of<'a>(
        &self,
        features: &'a ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<(&'a Tensor, Tensor)>> {
        let Some(sum) = self.others(features, pass)? else { return Ok(None) };
        let count = self.widths.len() as f64 - 1.0;
        let mean = if count > 1.0 { sum.f_div_scalar(count)? } else { sum };
        Ok(features.get(&self.first).map(|first| (first, mean)))
    }

    /// The first modality's feature and the sum of the others, all mapped; `None` when one did
    /// not run.
    pub(super) fn mapped(
        &self,
        features: &ByModality<Tensor>,
        pass: &mut Pass<'_>,
    ) -> Result<Option<(Tensor, Tensor)>> {
        let Some(sum) = self.others(features, pass)? else { return Ok(None) };
        let (Some(first), Some(map)) = (features.get(&self.first), self.maps.get(&self.first))
        else {
            return Ok(None);
        };
        Ok(Some((map.forward(first, pass)?, sum)))
    }

    fn others(&self, features: &ByModality<Tensor>, pass: &mut Pass<'_>) -> Result<Option<Tensor>> {
        if self.widths.keys().any(|name| !features.contains_key(name)) {
            return Ok(None);
        }
        let mut sum: Option<Tensor> = None;
        for (name, feature) in features.iter().filter(|(name, _)| **name != self.first) {
            let mapped = match self.maps.get(name) {
                Some(map) => map.forward(feature, pass)?,
                None => feature.shallow_clone(),
            };
            sum = Some(match sum {
                Some(sum) => sum.f_add(&mapped)?,
                None => mapped,
            });
        }
        Ok(sum)
    }
}
