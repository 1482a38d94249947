//! Groups finished runs by experiment and describes them over seeds.

use std::collections::{BTreeMap, BTreeSet};

use mie_record::{Manifest, ORACLE, OutputMetrics, RunDir, SKIPPED_DATA, Summary};
use serde::{Deserialize, Serialize};

use crate::significance::{holm, paired_p_value};
use crate::spread::Spread;

/// Split the scores are of: the only one no run may learn from.
const SPLIT: &str = "test";

/// Mark of runs tested on other data than the first run of the table.
const OTHER_DATA: &str = "other data";

/// Mark of runs that share their seed with another run of the experiment.
const REPEATED_SEED: &str = "repeated seed";

/// Mark of runs without scores of the test split.
const NO_SCORES: &str = "no test scores";

/// Describes experiments side by side, each over its seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Split the scores are of.
    pub split: String,
    /// One row for each experiment and its settings with a finished run, in the order the runs came in. The first
    /// is what the others are compared with.
    pub rows: Vec<Row>,
    /// Runs without a summary, which count nowhere in the rows.
    pub unfinished: Vec<Unfinished>,
    /// Runs whose files are damaged, which count nowhere either.
    pub unreadable: Vec<Unreadable>,
    /// What the marks of the rows mean.
    pub footnotes: BTreeMap<String, String>,
}

/// Describes one experiment over its finished runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the experiment, with its settings' hash where several go by one name.
    pub experiment: String,
    /// Seed of every run, sorted.
    pub seeds: Vec<u64>,
    /// What weakens the numbers, each with the number of runs it holds for.
    pub marks: BTreeMap<String, usize>,
    /// Scores by output.
    pub outputs: BTreeMap<String, Scores>,
    /// Differences from the first row by output, paired by seed: own score less the other's, over
    /// the seeds both have. Empty where no pair is sound: in the first row, without a common seed
    /// or output, and when either row was partly tested on other data or repeats a seed.
    pub differences: BTreeMap<String, Scores>,
    /// Chance of a difference in accuracy as large as this or larger if there were none, by output:
    /// a paired t-test, corrected over the rows for each output (Holm). Empty without differences
    /// over two seeds.
    #[serde(default)]
    pub p_values: BTreeMap<String, f64>,
    /// Time a run took, in seconds.
    pub wall_seconds: Spread,
}

/// Describes the scores of one output over seeds; fractions, so 1 is 100 %.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Share of samples whose class was predicted.
    pub accuracy: Spread,
    /// Mean F1 score of the classes.
    pub macro_f1: Spread,
    /// Mean average precision of the classes.
    pub mean_average_precision: Spread,
}

/// Names a run that has not finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfinished {
    /// Name of the experiment.
    pub experiment: String,
    /// Its seed.
    pub seed: u64,
    /// Its directory.
    pub path: String,
}

/// Names a run that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Its directory.
    pub path: String,
    /// What is wrong with which file.
    pub problem: String,
}

/// Compares runs: groups the finished ones by experiment, over seeds.
///
/// The experiment of the first finished run is what the others are compared with. Runs tested on
/// other data than that run are marked, and no differences are drawn with them. A run that cannot
/// be read is listed with the reason.
pub fn compare(runs: &[RunDir]) -> Comparison {
    let mut groups: Vec<Vec<Finished>> = Vec::new();
    let (mut unfinished, mut unreadable) = (Vec::new(), Vec::new());
    for run in runs {
        let read = run.read_manifest().and_then(|manifest| Ok((manifest, run.read_summary()?)));
        let (manifest, summary) = match read {
            Ok(read) => read,
            Err(error) => {
                let path = run.path().display().to_string();
                unreadable.push(Unreadable { path, problem: error.to_string() });
                continue;
            }
        };
        let Some(summary) = summary else {
            unfinished.push(Unfinished {
                experiment: manifest.experiment,
                seed: manifest.seed,
                path: run.path().display().to_string(),
            });
            continue;
        };
        let same = |group: &&mut Vec<Finished>| {
            group.iter().any(|other| {
                other.manifest.experiment == manifest.experiment
                    && other.manifest.settings == manifest.settings
            })
        };
        if let Some(group) = groups.iter_mut().find(same) {
            group.push(Finished { manifest, summary });
        } else {
            groups.push(vec![Finished { manifest, summary }]);
        }
    }
    let rows = rows(&groups);
    let footnotes = footnotes(&rows);
    Comparison { split: SPLIT.to_owned(), rows, unfinished, unreadable, footnotes }
}

/// Holds what a finished run says about itself.
struct Finished {
    manifest: Manifest,
    summary: Summary,
}

impl Finished {
    /// Names the data of the test split: dataset and fingerprint.
    fn test_data(&self) -> Vec<(&str, &str)> {
        let tested = self.manifest.data.iter().filter(|record| record.split == SPLIT);
        tested.map(|record| (record.dataset.as_str(), record.fingerprint.as_str())).collect()
    }

    /// Lists the scores of the test split by output.
    fn outputs(&self) -> impl Iterator<Item = (&String, [f64; 3])> {
        self.summary.outputs.get(SPLIT).into_iter().flatten().map(|(output, metrics)| {
            let OutputMetrics { accuracy, macro_f1, mean_average_precision, .. } = *metrics;
            (output, [accuracy, macro_f1, mean_average_precision])
        })
    }
}

/// Makes one row of each group; no group is empty.
fn rows(groups: &[Vec<Finished>]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for group in groups {
        let marks = marks(group, &groups[0][0]);
        let comparable = rows.first().is_some_and(|first| sound(&first.marks) && sound(&marks));
        let mut seeds: Vec<_> = group.iter().map(|run| run.manifest.seed).collect();
        seeds.sort_unstable();
        let wall_seconds: Vec<_> = group.iter().map(|run| run.summary.cost.wall_seconds).collect();
        let differences = comparable.then(|| describe(pairs(group, &groups[0])));
        rows.extend(Spread::of(&wall_seconds).map(|wall_seconds| Row {
            experiment: name(group, groups),
            seeds,
            marks,
            outputs: describe(group.iter().flat_map(Finished::outputs)),
            differences: differences.unwrap_or_default(),
            p_values: BTreeMap::new(),
            wall_seconds,
        }));
    }
    test(&mut rows);
    rows
}

/// Tests the differences of every output, corrected for the number of rows that have one.
fn test(rows: &mut [Row]) {
    let outputs: BTreeSet<String> =
        rows.iter().flat_map(|row| row.differences.keys().cloned()).collect();
    for output in outputs {
        let tested = rows.iter().enumerate().filter_map(|(index, row)| {
            Some((index, paired_p_value(row.differences.get(&output)?.accuracy)?))
        });
        let (indices, plain): (Vec<usize>, Vec<f64>) = tested.unzip();
        for (index, corrected) in indices.into_iter().zip(holm(&plain)) {
            rows[index].p_values.insert(output.clone(), corrected);
        }
    }
}

/// Names a group: by its experiment, and by its settings where others share that name.
fn name(group: &[Finished], groups: &[Vec<Finished>]) -> String {
    let Manifest { experiment, settings, .. } = &group[0].manifest;
    let namesakes = groups.iter().filter(|other| other[0].manifest.experiment == *experiment);
    if namesakes.count() > 1 { format!("{experiment} [{settings}]") } else { experiment.clone() }
}

/// Counts for how many runs each mark holds: their own, and what shows side by side.
fn marks(runs: &[Finished], first: &Finished) -> BTreeMap<String, usize> {
    let mut marks = BTreeMap::new();
    for run in runs {
        let own = run.manifest.marks.iter().chain(&run.summary.marks);
        let mut found: BTreeSet<&str> = own.map(String::as_str).collect();
        if run.test_data() != first.test_data() {
            found.insert(OTHER_DATA);
        }
        let same_seed = |other: &&Finished| other.manifest.seed == run.manifest.seed;
        if runs.iter().filter(same_seed).count() > 1 {
            found.insert(REPEATED_SEED);
        }
        if run.outputs().next().is_none() {
            found.insert(NO_SCORES);
        }
        for mark in found {
            *marks.entry(mark.to_owned()).or_insert(0) += 1;
        }
    }
    marks
}

/// Says whether runs with these marks may be paired with others by seed.
fn sound(marks: &BTreeMap<String, usize>) -> bool {
    !marks.contains_key(OTHER_DATA) && !marks.contains_key(REPEATED_SEED)
}

/// Subtracts the scores of the other experiment, seed by seed and output by output.
fn pairs<'a>(
    runs: &'a [Finished],
    others: &'a [Finished],
) -> impl Iterator<Item = (&'a String, [f64; 3])> {
    let of_one_seed = runs.iter().flat_map(move |run| {
        let same_seed = move |other: &&Finished| other.manifest.seed == run.manifest.seed;
        others.iter().filter(same_seed).map(move |other| (run, other))
    });
    of_one_seed.flat_map(|(run, other)| {
        let theirs: BTreeMap<_, _> = other.outputs().collect();
        run.outputs().filter_map(move |(output, own)| {
            let other = theirs.get(output)?;
            let difference: [f64; 3] = std::array::from_fn(|metric| own[metric] - other[metric]);
            Some((output, difference))
        })
    })
}

/// Describes the values of each output.
fn describe<'a>(values: impl Iterator<Item = (&'a String, [f64; 3])>) -> BTreeMap<String, Scores> {
    let mut by_output: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (output, scores) in values {
        by_output.entry(output).or_default().push(scores);
    }
    let described = by_output.into_iter().filter_map(|(output, runs)| {
        let of_metric = |metric: usize| {
            Spread::of(&runs.iter().map(|scores| scores[metric]).collect::<Vec<_>>())
        };
        let scores = Scores {
            accuracy: of_metric(0)?,
            macro_f1: of_metric(1)?,
            mean_average_precision: of_metric(2)?,
        };
        Some((output.clone(), scores))
    });
    described.collect()
}

/// Explains every mark of the rows.
fn footnotes(rows: &[Row]) -> BTreeMap<String, String> {
    let explain = |mark: &str| match mark {
        ORACLE => "weights were selected on the test split, which flatters the scores",
        SKIPPED_DATA => "missing or broken samples were left out; the manifest lists them",
        OTHER_DATA => "tested on other data than the first run of the table: not comparable",
        REPEATED_SEED => "runs of equal seed: their settings differ, or one is here twice",
        NO_SCORES => "ended without scores of the test split",
        _ => "marked so by the run itself, in its manifest or summary",
    };
    let marks = rows.iter().flat_map(|row| row.marks.keys());
    marks.map(|mark| (mark.clone(), explain(mark).to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::samples::Sample;

    /// Checks mean, deviation and count; the numbers are short decimals, so 1e-12 is rounding.
    fn assert_spread(found: Spread, mean: f64, standard_deviation: Option<f64>, count: usize) {
        assert!((found.mean - mean).abs() < 1e-12, "{found:?}, expected mean {mean}");
        assert_eq!(found.standard_deviation.is_some(), standard_deviation.is_some(), "{found:?}");
        let deviations = found.standard_deviation.zip(standard_deviation);
        let close = deviations.is_none_or(|(found, expected)| (found - expected).abs() < 1e-12);
        assert!(close, "{found:?}, expected deviation {standard_deviation:?}");
        assert_eq!(found.count, count);
    }

    #[test]
    fn scores_are_mean_and_sample_deviation_over_the_seeds() {
        let root = tempfile::tempdir().unwrap();
        let runs = [(2, 0.6), (0, 0.7), (1, 0.8)]
            .map(|(seed, score)| Sample::new("mie", seed).scored("fused", score).finish(&root));
        let comparison = compare(&runs);
        assert_eq!(comparison.split, "test");
        let [row] = comparison.rows.as_slice() else { unreachable!("{comparison:?}") };
        assert_eq!(row.experiment, "mie");
        assert_eq!(row.seeds, [0, 1, 2]);
        let fused = row.outputs["fused"];
        assert_spread(fused.accuracy, 0.7, Some(0.1), 3);
        assert_spread(fused.macro_f1, 0.35, Some(0.05), 3);
        assert_spread(fused.mean_average_precision, 0.175, Some(0.025), 3);
        assert_spread(row.wall_seconds, 200.0, Some(100.0), 3);
        assert!(row.marks.is_empty() && comparison.footnotes.is_empty(), "{comparison:?}");
        assert!(row.differences.is_empty(), "the first row has nothing to differ from");
    }

    #[test]
    fn experiments_stay_in_the_order_they_come_in() {
        let root = tempfile::tempdir().unwrap();
        let runs = [("zero", 0), ("mie", 0), ("zero", 1)]
            .map(|(name, seed)| Sample::new(name, seed).scored("fused", 0.5).finish(&root));
        let comparison = compare(&runs);
        let names: Vec<_> = comparison.rows.iter().map(|row| row.experiment.as_str()).collect();
        assert_eq!(names, ["zero", "mie"]);
    }

    #[test]
    fn runs_that_cannot_be_read_are_listed_and_the_others_are_compared() {
        let root = tempfile::tempdir().unwrap();
        let runs = [0, 1, 2].map(|seed| Sample::new("mie", seed).finish(&root));
        fs::write(runs[0].manifest_path(), "{ half a").unwrap();
        fs::write(runs[2].summary_path(), "{").unwrap();
        let comparison = compare(&runs);
        assert_eq!(comparison.rows[0].seeds, [1]);
        for (unreadable, (run, file)) in comparison
            .unreadable
            .iter()
            .zip([(&runs[0], "manifest.json"), (&runs[2], "summary.json")])
        {
            assert_eq!(unreadable.path, run.path().display().to_string());
            assert!(unreadable.problem.contains(file), "{unreadable:?}");
            assert!(comparison.text(None).contains(&format!("left out: {}", unreadable.problem)));
        }
        assert_eq!(comparison.unreadable.len(), 2);
    }

    #[test]
    fn unfinished_runs_are_listed_and_count_nowhere() {
        let root = tempfile::tempdir().unwrap();
        let started = Sample::new("mie", 1).scored("fused", 0.9).start(&root);
        let runs = [started.clone(), Sample::new("mie", 0).scored("fused", 0.5).finish(&root)];
        let comparison = compare(&runs);
        assert_eq!(comparison.rows[0].seeds, [0]);
        assert_spread(comparison.rows[0].outputs["fused"].accuracy, 0.5, None, 1);
        let expected = Unfinished {
            experiment: "mie".to_owned(),
            seed: 1,
            path: started.path().display().to_string(),
        };
        assert_eq!(comparison.unfinished, [expected]);
        assert!(compare(&[started]).rows.is_empty());
    }

    #[test]
    fn differences_are_paired_over_the_seeds_both_experiments_have() {
        let root = tempfile::tempdir().unwrap();
        let mut runs = Vec::new();
        for (seed, score) in [(0, 0.1), (1, 0.5), (2, 0.7)] {
            runs.push(Sample::new("joint", seed).scored("fused", score).finish(&root));
        }
        for (seed, score) in [(1, 0.6), (2, 0.9), (3, 0.2)] {
            let run = Sample::new("mie", seed).scored("fused", score).scored("audio", 0.3);
            runs.push(run.finish(&root));
        }
        runs.push(Sample::new("single", 2).scored("fused", 0.5).finish(&root));
        runs.push(Sample::new("elsewhere", 9).scored("fused", 0.5).finish(&root));
        let comparison = compare(&runs);
        let [_, mie, single, elsewhere] = comparison.rows.as_slice() else {
            unreachable!("{comparison:?}")
        };
        // 0.6 - 0.5 and 0.9 - 0.7: mean 0.15, deviations of 0.05 to both sides.
        let difference = mie.differences["fused"];
        assert_spread(difference.accuracy, 0.15, Some(0.005_f64.sqrt()), 2);
        assert_spread(difference.macro_f1, 0.075, Some(0.001_25_f64.sqrt()), 2);
        assert!(!mie.differences.contains_key("audio"), "the first experiment has no audio");
        assert_spread(single.differences["fused"].accuracy, -0.2, None, 1);
        assert!(elsewhere.differences.is_empty());
    }

    #[test]
    fn marks_are_counted_and_explained() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("mie", 0).scored("fused", 0.5).marked(ORACLE).finish(&root),
            Sample::new("mie", 1).scored("fused", 0.5).marked(ORACLE).marked("hot").finish(&root),
            Sample::new("mie", 2).scored("fused", 0.5).finish(&root),
        ];
        let comparison = compare(&runs);
        let expected = BTreeMap::from([(ORACLE.to_owned(), 2), ("hot".to_owned(), 1)]);
        assert_eq!(comparison.rows[0].marks, expected);
        assert!(comparison.footnotes[ORACLE].contains("selected on the test split"));
        assert!(comparison.footnotes["hot"].contains("by the run itself"));
        assert_eq!(comparison.footnotes.len(), 2);
    }

    #[test]
    fn other_test_data_is_marked_and_draws_no_differences() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("joint", 0).scored("fused", 0.5).finish(&root),
            Sample::new("mie", 0).scored("fused", 0.6).finish(&root),
            Sample::new("odd", 0).scored("fused", 0.9).tested_on("ffff").finish(&root),
            Sample::new("odd", 1).scored("fused", 0.9).finish(&root),
        ];
        let comparison = compare(&runs);
        let [joint, mie, odd] = comparison.rows.as_slice() else { unreachable!("{comparison:?}") };
        assert!(joint.marks.is_empty() && mie.marks.is_empty());
        assert_spread(mie.differences["fused"].accuracy, 0.1, None, 1);
        assert_eq!(odd.marks, BTreeMap::from([(OTHER_DATA.to_owned(), 1)]));
        assert!(odd.differences.is_empty());
        assert!(comparison.footnotes[OTHER_DATA].contains("not comparable"));
    }

    #[test]
    fn runs_of_other_settings_are_another_row_although_they_share_a_name() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("mie", 0).scored("fused", 0.5).with_settings("aa").finish(&root),
            Sample::new("mie", 0).scored("fused", 0.6).with_settings("bb").finish(&root),
            Sample::new("mie", 1).scored("fused", 0.7).with_settings("aa").finish(&root),
        ];
        let comparison = compare(&runs);
        let rows: Vec<_> =
            comparison.rows.iter().map(|row| (row.experiment.as_str(), row.seeds.len())).collect();
        assert_eq!(rows, [("mie [aa]", 2), ("mie [bb]", 1)]);
    }

    #[test]
    fn runs_that_share_a_seed_are_marked_and_draw_no_differences() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("joint", 0).scored("fused", 0.5).finish(&root),
            Sample::new("mie", 0).scored("fused", 0.6).finish(&root),
            Sample::new("mie", 0).scored("fused", 0.8).with_fingerprint("other").finish(&root),
            Sample::new("mie", 1).scored("fused", 0.7).finish(&root),
        ];
        let comparison = compare(&runs);
        let mie = &comparison.rows[1];
        assert_eq!(mie.seeds, [0, 0, 1]);
        assert_eq!(mie.marks, BTreeMap::from([(REPEATED_SEED.to_owned(), 2)]));
        assert!(mie.differences.is_empty());
    }

    #[test]
    fn a_run_without_test_scores_is_marked() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("mie", 0).finish(&root),
            Sample::new("mie", 1).scored("fused", 0.5).finish(&root),
        ];
        let comparison = compare(&runs);
        let row = &comparison.rows[0];
        assert_eq!(row.marks, BTreeMap::from([(NO_SCORES.to_owned(), 1)]));
        assert_eq!(row.outputs["fused"].accuracy.count, 1);
        assert_eq!(row.wall_seconds.count, 2);
    }
}
