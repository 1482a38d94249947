//! Fixed factors of the learning rate for groups of parameters.

use std::collections::BTreeMap;

use mie_core::prelude::*;

/// Multiplies the learning rate of named groups.
///
/// ```text
/// rate of group g = optimizer's rate * factors[g] * whatever schedules say
/// ```
///
/// Groups are named as in `mie config check`: `encoder.audio`, `head.audio`, `shared_head`,
/// `joint_head`, `fusion`, `tap.2.audio`. With `phases`, only in those; the others train at the
/// optimizer's rate.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GroupRatesConfig {
    /// Factor of each group, at least 0; 1 for those that are not named. Empty by default.
    pub factors: BTreeMap<String, f64>,
    /// Phases in which factors hold, from 0; all when empty.
    pub phases: Vec<usize>,
}

#[typetag::serde(name = "group_rates")]
impl ControllerConfig for GroupRatesConfig {
    fn validate(&self) -> Result<()> {
        for (name, &factor) in &self.factors {
            let usable = factor >= 0.0 && factor.is_finite();
            ensure_range(&format!("factors.{name}"), "[0, inf)", factor, usable)?;
        }
        Ok(())
    }

    fn build(&self) -> Result<Box<dyn Controller>> {
        self.validate()?;
        Ok(Box::new(GroupRates { config: self.clone() }))
    }
}
register!(controller::<GroupRatesConfig>, source = "Howard and Ruder 2018, arXiv:1801.06146");

struct GroupRates {
    config: GroupRatesConfig,
}

impl Persist for GroupRates {}

impl Controller for GroupRates {
    fn check(&self, run: &RunShape) -> Result<()> {
        for name in self.config.factors.keys() {
            run.expect_group("factors", name)?;
        }
        match self.config.phases.iter().find(|phase| **phase >= run.phases.len()) {
            None => Ok(()),
            Some(phase) => Err(Error::refused(
                format!("`phases` names {phase}, and the run has {}", run.phases.len()),
                "name phases from 0; `mie config check` lists them",
            )),
        }
    }

    fn after(&mut self, at: &Boundary, run: &mut dyn RunOps) -> Result<Vec<Directive>> {
        if at.moment != Moment::PhaseStart {
            return Ok(Vec::new());
        }
        let holds = self.config.phases.is_empty() || self.config.phases.contains(&at.phase);
        let factor = |group: &GroupId| {
            let named = self.config.factors.get(&group.to_string()).copied();
            named.map(|factor| if holds { factor } else { 1.0 })
        };
        let directive = |group: GroupId| {
            let factor = factor(&group)?;
            Some(Directive::LearningRateFactor { group: Some(group), factor })
        };
        Ok(run.groups().into_iter().filter_map(directive).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mie_conformance::stand_in::{TinyRun, boundary};

    fn plugin(factors: &[(&str, f64)], phases: &[usize]) -> Box<dyn Controller> {
        let factors = factors.iter().map(|(name, factor)| ((*name).to_owned(), *factor)).collect();
        GroupRatesConfig { factors, phases: phases.to_vec() }.build().unwrap()
    }

    #[test]
    fn named_groups_have_their_factor_in_the_phases_named() {
        let mut run = TinyRun::new(Seed(0));
        let mut plugin = plugin(&[("head.audio", 10.0)], &[1]);
        let mut factor = |phase| {
            let at = Boundary { phase, ..boundary(Moment::PhaseStart, 0, &[]) };
            match &plugin.after(&at, &mut run).unwrap()[..] {
                [Directive::LearningRateFactor { group: Some(group), factor }] => {
                    assert_eq!(*group, GroupId::Head("audio".to_owned()));
                    *factor
                }
                other => panic!("{other:?}"),
            }
        };
        let found = [factor(0), factor(1), factor(2)].map(f64::to_bits);
        assert_eq!(found, [1.0, 10.0, 1.0].map(f64::to_bits));
    }

    #[test]
    fn unknown_groups_and_phases_are_refused() {
        let shape = TinyRun::new(Seed(0)).shape();
        let refusal = |factors: &[(&str, f64)], phases: &[usize]| {
            plugin(factors, phases).check(&shape).unwrap_err().to_string()
        };
        let error = refusal(&[("head.audoi", 1.0)], &[]);
        assert!(error.contains("did you mean `head.audio`?"), "{error}");
        assert!(refusal(&[], &[1]).contains("`phases` names 1, and the run has 1"));
    }
}
