//! What measurements of projections say: tables, powers, crossovers, charts.

use std::collections::BTreeMap;

use mie_core::{Error, Result};
use serde_json::{Value, json};

use super::chart::{Line, Panel, Point};
use super::fit::{Crossing, FROM_WIDTH, crossings, power};
use super::measure::{Dtype, Found, Timing, Way};
use crate::tables::table;

/// Errors below it are drawn there: a logarithm has no zero.
const LEAST_ERROR: f64 = 1e-17;

/// What is compared over widths, together with the number format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) spectrum: String,
    /// Batches as asked for: 0 stands for twice the width. Absent for spectra without batches.
    pub(super) rows: Option<u64>,
    pub(super) device: String,
}

/// One way on one input.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) key: Key,
    /// Format that the covariance was summed in.
    pub(super) dtype: Dtype,
    /// Layer of a run that the covariance is of.
    pub(super) layer: Option<String>,
    pub(super) width: i64,
    pub(super) way: Way,
    pub(super) reference_seconds: f64,
    /// What was measured, or why nothing could be.
    pub(super) found: Result<Found, String>,
}

impl Case {
    /// The input in the words of a remark.
    fn place(&self) -> String {
        self.layer.clone().unwrap_or_else(|| self.width.to_string())
    }

    pub(super) fn json(&self) -> Value {
        let mut object = json!({
            "spectrum": self.key.spectrum,
            "layer": self.layer,
            "rows": self.key.rows.map(|rows| actual(rows, self.width)),
            "width": self.width,
            "device": self.key.device,
            "dtype": self.dtype.name(),
            "solver": self.way.name(),
            "reference_seconds": self.reference_seconds,
        });
        let more = match &self.found {
            Ok(found) => found.json(),
            Err(problem) => json!({ "problem": problem }),
        };
        if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
            object.extend(more);
        }
        object
    }
}

/// Batches that `rows` of the command line stand for.
pub(super) fn actual(rows: u64, width: i64) -> u64 {
    if rows == 0 { 2 * width as u64 } else { rows }
}

/// Writes a line for each case.
pub(super) fn csv(cases: &[Case]) -> Result<String> {
    let broken = |error: csv::Error| Error::Bug(format!("measurements are no CSV: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    let header = "spectrum,layer,rows,width,device,dtype,solver,ran,fell_back,form,\
                  refresh_median_s,refresh_min_s,refresh_max_s,refresh_runs,\
                  update_median_s_per_batch,apply_median_s,relative_error,error_bound,\
                  covariance_bytes,projection_bytes,memory_rise_bytes,memory_rise_is_exact,\
                  reference_s,problem";
    writer.write_record(header.split(',')).map_err(broken)?;
    for case in cases {
        let mut cells = vec![
            case.key.spectrum.clone(),
            case.layer.clone().unwrap_or_default(),
            optional(case.key.rows.map(|rows| actual(rows, case.width))),
            case.width.to_string(),
            case.key.device.clone(),
            case.dtype.name().to_owned(),
            case.way.name().to_owned(),
        ];
        match &case.found {
            Ok(found) => cells.extend([
                found.ran.clone(),
                found.fell_back.to_string(),
                found.form.clone(),
                found.refresh.median.to_string(),
                found.refresh.least.to_string(),
                found.refresh.most.to_string(),
                found.refresh.runs.to_string(),
                optional(found.update.map(|update| update.median)),
                found.apply.median.to_string(),
                found.error.to_string(),
                optional(found.bound),
                found.covariance_bytes.to_string(),
                found.projection_bytes.to_string(),
                optional(found.rise.map(|rise| rise.bytes)),
                optional(found.rise.map(|rise| rise.exact)),
            ]),
            Err(_) => cells.extend((0..15).map(|_| String::new())),
        }
        cells.push(case.reference_seconds.to_string());
        cells.push(case.found.as_ref().err().cloned().unwrap_or_default());
        writer.write_record(&cells).map_err(broken)?;
    }
    let bytes = writer.into_inner().map_err(|error| Error::Bug(error.to_string()))?;
    String::from_utf8(bytes).map_err(|error| Error::Bug(error.to_string()))
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Cases that differ in width and way alone; the released code stands beside every format.
#[derive(Debug)]
pub(super) struct Group<'a> {
    key: &'a Key,
    dtype: Dtype,
    cases: Vec<&'a Case>,
}

/// Sorts cases into groups, in the order in which they come.
pub(super) fn groups(cases: &[Case]) -> Vec<Group<'_>> {
    let mut named: Vec<(&Key, Dtype)> = Vec::new();
    // The released code has a group of its own only where nothing else was measured.
    for released in [false, true] {
        for case in cases.iter().filter(|case| (case.way == Way::Released) == released) {
            let listed = named
                .iter()
                .any(|(key, dtype)| **key == case.key && (released || *dtype == case.dtype));
            if !listed {
                named.push((&case.key, case.dtype));
            }
        }
    }
    named
        .into_iter()
        .map(|(key, dtype)| {
            let belongs = |case: &&Case| {
                case.key == *key && (case.dtype == dtype || case.way == Way::Released)
            };
            Group { key, dtype, cases: cases.iter().filter(belongs).collect() }
        })
        .collect()
}

impl<'a> Group<'a> {
    fn title(&self) -> String {
        let Key { spectrum, rows, device } = self.key;
        let batches = match rows {
            None => String::new(),
            Some(0) => ", twice as many batches as the width".to_owned(),
            Some(rows) => format!(", {rows} batches"),
        };
        format!("{spectrum}{batches}, {device}, summed in {}", self.dtype.name())
    }

    fn ways(&self) -> Vec<Way> {
        let mut ways: Vec<Way> = self.cases.iter().map(|case| case.way).collect();
        ways.sort_unstable();
        ways.dedup();
        ways
    }

    fn found(&self, way: Way) -> impl Iterator<Item = (&'a Case, &'a Found)> {
        let of_way = self.cases.iter().filter(move |case| case.way == way);
        of_way.filter_map(|case| Some((*case, case.found.as_ref().ok()?)))
    }

    /// Points of a way by width: the geometric mean where there are several layers of a width.
    fn points(&self, way: Way, value: &dyn Fn(&Found) -> Timing) -> Vec<Point> {
        let mut by_width: BTreeMap<i64, Vec<&Found>> = BTreeMap::new();
        for (case, found) in self.found(way) {
            by_width.entry(case.width).or_default().push(found);
        }
        let point = |(width, all): (i64, Vec<&Found>)| {
            let timings: Vec<Timing> = all.iter().map(|found| value(found)).collect();
            let logarithms: f64 = timings.iter().map(|timing| timing.median.ln()).sum();
            Point {
                width: width as f64,
                value: (logarithms / timings.len() as f64).exp(),
                least: timings.iter().map(|timing| timing.least).fold(f64::INFINITY, f64::min),
                most: timings.iter().map(|timing| timing.most).fold(0.0, f64::max),
                hollow: all.iter().any(|found| found.fell_back),
            }
        };
        by_width.into_iter().map(point).collect()
    }

    /// Seconds of a refresh where the way really ran.
    fn seconds(&self, way: Way) -> Vec<(f64, f64)> {
        let points = self.points(way, &|found| found.refresh);
        points.iter().filter(|p| !p.hollow).map(|p| (p.width, p.value)).collect()
    }

    /// Pairs of ways with where they cross; `auto` is one of the others.
    fn pairs(&self) -> Vec<(Way, Way, Vec<Crossing>)> {
        let ways: Vec<Way> = self.ways().into_iter().filter(|way| *way != Way::Auto).collect();
        let mut pairs = Vec::new();
        for (index, first) in ways.iter().enumerate() {
            for second in &ways[index + 1..] {
                let found = crossings(&self.seconds(*first), &self.seconds(*second));
                pairs.push((*first, *second, found));
            }
        }
        pairs
    }

    /// How many times faster than the released code a case is.
    fn ratio(&self, case: &Case, found: &Found) -> Option<f64> {
        let same = |other: &&Case| {
            let input = (other.width, &other.layer) == (case.width, &case.layer);
            input && other.way == Way::Released
        };
        let released = self.cases.iter().copied().find(same)?.found.as_ref().ok()?;
        Some(released.refresh.median / found.refresh.median)
    }

    fn worst_error(&self, way: Way) -> f64 {
        self.found(way).map(|(_, found)| found.error).fold(0.0, f64::max)
    }

    pub(super) fn json(&self) -> Value {
        let solvers = self.ways().into_iter().map(|way| {
            let power = power(&self.seconds(way));
            let ratios = self.found(way).filter_map(|(case, found)| {
                let ratio = self.ratio(case, found)?;
                Some(json!({ "width": case.width, "layer": case.layer, "ratio": ratio }))
            });
            json!({
                "solver": way.name(),
                "exponent": power.map(|power| power.exponent),
                "points": power.map_or(0, |power| power.points),
                "worst_error": self.worst_error(way),
                "times_faster_than_released": ratios.collect::<Vec<_>>(),
            })
        });
        let crossovers = self.pairs().into_iter().map(|(first, second, found)| {
            let list = found.iter().map(|crossing| {
                let faster = if crossing.first_wins { first } else { second };
                json!({ "width": crossing.width, "faster_from_there": faster.name() })
            });
            let list: Vec<Value> = list.collect();
            json!({ "first": first.name(), "second": second.name(), "crossovers": list })
        });
        json!({
            "spectrum": self.key.spectrum,
            "rows": self.key.rows,
            "device": self.key.device,
            "dtype": self.dtype.name(),
            "solvers": solvers.collect::<Vec<_>>(),
            "pairs": crossovers.collect::<Vec<_>>(),
        })
    }

    /// Time and error as panels of a chart.
    pub(super) fn panels(&self) -> Vec<Panel> {
        let lines = |value: &dyn Fn(&Found) -> Timing| -> Vec<Line> {
            let line = |way: Way| Line {
                name: way.name().to_owned(),
                style: way as usize,
                points: self.points(way, value),
            };
            self.ways().into_iter().map(line).collect()
        };
        let error = |found: &Found| {
            let error = found.error.max(LEAST_ERROR);
            Timing { median: error, least: error, most: error, runs: 1 }
        };
        vec![
            Panel {
                title: self.title(),
                quantity: "time of a refresh".to_owned(),
                seconds: true,
                lines: lines(&|found| found.refresh),
            },
            Panel {
                title: "against eigh in f64".to_owned(),
                quantity: "relative error of P".to_owned(),
                seconds: false,
                lines: lines(&error),
            },
        ]
    }

    pub(super) fn text(&self) -> String {
        let mut lines = vec![self.title(), self.times(), self.solvers()];
        let crossed: Vec<Vec<String>> = self
            .pairs()
            .into_iter()
            .map(|(first, second, found)| {
                vec![format!("{}, {}", first.name(), second.name()), words(first, second, &found)]
            })
            .collect();
        if !crossed.is_empty() {
            let header = ["pair", "where the faster changes"].map(str::to_owned);
            lines.push(table(&header, &crossed, 2));
        }
        lines.extend(self.remarks());
        lines.join("\n")
    }

    /// Seconds by width, with how many times faster than the released code.
    fn times(&self) -> String {
        let ways = self.ways();
        let layered = self.cases.iter().any(|case| case.layer.is_some());
        let mut header: Vec<String> = layered.then(|| "layer".to_owned()).into_iter().collect();
        header.extend(["width".to_owned(), "reference".to_owned()]);
        header.extend(ways.iter().map(|way| way.name().to_owned()));
        let mut inputs: Vec<&Case> = Vec::new();
        for case in &self.cases {
            let same = |other: &&Case| (other.width, &other.layer) == (case.width, &case.layer);
            if !inputs.iter().any(same) {
                inputs.push(case);
            }
        }
        let row = |input: &&Case| {
            let mut cells: Vec<String> = input.layer.iter().cloned().collect();
            cells.extend([input.width.to_string(), time(input.reference_seconds)]);
            cells.extend(ways.iter().map(|way| {
                let same = |case: &&&Case| {
                    case.way == *way && (case.width, &case.layer) == (input.width, &input.layer)
                };
                self.cases.iter().find(same).map_or_else(String::new, |case| self.cell(case))
            }));
            cells
        };
        let rows: Vec<Vec<String>> = inputs.iter().map(row).collect();
        table(&header, &rows, usize::from(layered))
    }

    fn cell(&self, case: &Case) -> String {
        match &case.found {
            Err(_) => "failed".to_owned(),
            Ok(found) => {
                let mark = if found.fell_back { " *" } else { "" };
                let ratio = self.ratio(case, found).filter(|_| case.way != Way::Released);
                let ratio = ratio.map_or_else(String::new, |ratio| format!(" ({}x)", three(ratio)));
                format!("{}{ratio}{mark}", time(found.refresh.median))
            }
        }
    }

    /// What is known of each way over all widths, and at the largest.
    fn solvers(&self) -> String {
        let header = [
            "solver",
            "time ~ width^p",
            "points",
            "worst error",
            "own bound",
            "update",
            "apply",
            "C held",
            "P held",
            "memory rise",
        ];
        let row = |way: Way| {
            let power = power(&self.seconds(way));
            let largest = self.found(way).max_by_key(|(case, _)| case.width).map(|found| found.1);
            let of_largest =
                |cell: &dyn Fn(&Found) -> String| largest.map_or_else(String::new, cell);
            let bound = self.found(way).filter_map(|(_, found)| found.bound).reduce(f64::max);
            let error = match largest {
                Some(_) => format!("{:.1e}", self.worst_error(way)),
                None => String::new(),
            };
            vec![
                way.name().to_owned(),
                power.map_or_else(String::new, |power| format!("{:.2}", power.exponent)),
                power.map_or(0, |power| power.points).to_string(),
                error,
                bound.map_or_else(String::new, |bound| format!("{bound:.1e}")),
                of_largest(&|found| {
                    found.update.map_or_else(String::new, |update| time(update.median))
                }),
                of_largest(&|found| time(found.apply.median)),
                of_largest(&|found| bytes(found.covariance_bytes)),
                of_largest(&|found| bytes(found.projection_bytes)),
                of_largest(&|found| match found.rise {
                    None => String::new(),
                    Some(rise) if rise.exact => bytes(rise.bytes),
                    Some(rise) => format!("< {}", bytes(rise.bytes)),
                }),
            ]
        };
        let rows: Vec<Vec<String>> = self.ways().into_iter().map(row).collect();
        let largest = self.cases.iter().map(|case| case.width).max().unwrap_or_default();
        format!(
            "{}\np is fitted from width {FROM_WIDTH} on; update (a batch), apply and memory are \
             those at width {largest}",
            table(&header.map(str::to_owned), &rows, 1)
        )
    }

    /// What did not go as the name of the way says, and what `auto` took.
    fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<((Way, String), Vec<String>)> = Vec::new();
        for case in &self.cases {
            let remark = match &case.found {
                Err(problem) => format!("failed: {problem}"),
                Ok(found) if found.fell_back => {
                    format!("{} ran instead ({})", found.ran, found.failed.join("; "))
                }
                Ok(found) if case.way == Way::Auto => {
                    format!("took {}", found.ran.split(' ').next().unwrap_or_default())
                }
                Ok(_) => continue,
            };
            let key = (case.way, remark);
            match remarks.iter_mut().find(|(other, _)| *other == key) {
                Some((_, places)) => places.push(case.place()),
                None => remarks.push((key, vec![case.place()])),
            }
        }
        let line = |((way, remark), places): ((Way, String), Vec<String>)| {
            let mark = if remark.starts_with("took") { "" } else { "* " };
            format!("{mark}{} at {}: {remark}", way.name(), places.join(", "))
        };
        remarks.into_iter().map(line).collect()
    }
}

fn words(first: Way, second: Way, found: &[Crossing]) -> String {
    let one = |crossing: &Crossing| {
        let faster = if crossing.first_wins { first } else { second };
        format!("{} from {:.0} on", faster.name(), crossing.width)
    };
    let all: Vec<String> = found.iter().map(one).collect();
    if all.is_empty() { "none in range".to_owned() } else { all.join(", ") }
}

/// A time in the unit that fits: `12.3 ms`.
pub(super) fn time(seconds: f64) -> String {
    let (factor, unit) = if seconds < 1e-3 {
        (1e6, "µs")
    } else if seconds < 1.0 {
        (1e3, "ms")
    } else {
        (1.0, "s")
    };
    format!("{} {unit}", three(factor * seconds))
}

/// Three digits of a number, or all before the point.
fn three(value: f64) -> String {
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$}")
}

fn bytes(count: u64) -> String {
    format!("{} MB", three(count as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(median: f64) -> Timing {
        Timing { median, least: median, most: median, runs: 3 }
    }

    fn case(way: Way, dtype: Dtype, width: i64, seconds: f64) -> Case {
        let key =
            Key { spectrum: "features".to_owned(), rows: Some(558), device: "cpu".to_owned() };
        let found = Found {
            refresh: timing(seconds),
            update: Some(timing(1e-5)),
            apply: timing(2e-5),
            error: 1e-7 * width as f64,
            bound: None,
            form: "dense".to_owned(),
            ran: format!("{} f32 cpu", way.name()),
            fell_back: false,
            failed: Vec::new(),
            covariance_bytes: 4_000_000,
            projection_bytes: 4_000_000,
            rise: None,
        };
        let reference_seconds = 0.25;
        Case { key, dtype, layer: None, width, way, reference_seconds, found: Ok(found) }
    }

    /// Released ~ width^3, chebyshev ~ width^2, equal at 512.
    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for width in [256i64, 1024] {
            let share = width as f64 / 512.0;
            cases.push(case(Way::Released, Dtype::F32, width, share.powi(3)));
            for dtype in [Dtype::F32, Dtype::F64] {
                cases.push(case(Way::Chebyshev, dtype, width, share.powi(2)));
                let mut gram = case(Way::Gram, dtype, width, 0.5);
                if let Ok(found) = &mut gram.found
                    && width == 256
                {
                    found.fell_back = true;
                    found.ran = "eigh f32 cpu".to_owned();
                    found.failed = vec!["gram: too many rows".to_owned()];
                }
                cases.push(gram);
            }
        }
        cases
    }

    #[test]
    fn the_released_code_stands_beside_every_format() {
        let cases = cases();
        let found = groups(&cases);
        assert_eq!(found.len(), 2);
        for group in &found {
            assert_eq!(group.ways(), [Way::Released, Way::Gram, Way::Chebyshev]);
            assert_eq!(group.cases.len(), 6);
        }
        let alone = [case(Way::Released, Dtype::F32, 64, 1.0)];
        assert_eq!(groups(&alone).len(), 1);
    }

    #[test]
    fn tables_say_powers_ratios_crossovers_and_what_fell_back() {
        let cases = cases();
        let text = groups(&cases)[1].text();
        let rows: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert!(text.starts_with("features, 558 batches, cpu, summed in f64\n"), "{text}");
        let row = |first: &str| rows.iter().find(|row| row.first() == Some(&first)).unwrap();
        assert_eq!(
            row("1024")[..],
            ["1024", "250", "ms", "8.00", "s", "500", "ms", "(16.0x)", "4.00", "s", "(2.00x)"],
            "{text}"
        );
        assert_eq!(row("chebyshev")[1..4], ["2.00", "2", "1.0e-4"], "{text}");
        // One of its two points is of another solver.
        assert_eq!(row("gram")[1..3], ["0", "1.0e-4"], "{text}");
        assert!(text.contains("released, chebyshev"), "{text}");
        assert!(text.contains("chebyshev from 512 on"), "{text}");
        assert!(text.contains("none in range"), "{text}");
        assert!(
            text.ends_with("* gram at 256: eigh f32 cpu ran instead (gram: too many rows)"),
            "{text}"
        );
    }

    #[test]
    fn a_case_that_failed_is_listed_with_the_reason() {
        let failed = Case { found: Err("no memory".to_owned()), ..cases().remove(0) };
        let all = [failed];
        let text = groups(&all)[0].text();
        assert!(text.contains("* released at 256: failed: no memory"), "{text}");
        assert_eq!(all[0].json()["problem"], "no memory");
    }

    #[test]
    fn every_case_is_a_line_of_the_csv_with_all_its_columns() {
        let mut cases = cases();
        cases[0].found = Err("a, b".to_owned());
        let text = csv(&cases).unwrap();
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        let columns = reader.headers().unwrap().len();
        let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
        assert_eq!(rows.len(), cases.len());
        assert!(rows.iter().all(|row| row.len() == columns));
        assert_eq!(rows[0].get(columns - 1), Some("a, b"));
    }

    #[test]
    fn a_chart_has_a_line_for_each_way_and_marks_what_fell_back() {
        let cases = cases();
        let panels = groups(&cases)[0].panels();
        assert_eq!(panels.len(), 2);
        assert_eq!(panels[0].lines.len(), 3);
        let gram = &panels[0].lines[1];
        assert_eq!(gram.points.iter().map(|p| p.hollow).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn the_summary_as_json_has_the_same_numbers() {
        let cases = cases();
        let page = groups(&cases)[0].json();
        assert!((page["solvers"][0]["exponent"].as_f64().unwrap() - 3.0).abs() < 1e-9);
        let ratio = &page["solvers"][2]["times_faster_than_released"][1]["ratio"];
        assert!((ratio.as_f64().unwrap() - 2.0).abs() < 1e-9, "{page}");
        assert_eq!(page["pairs"][1]["crossovers"][0]["faster_from_there"], "chebyshev");
    }

    #[test]
    fn times_take_the_unit_that_fits() {
        assert_eq!(time(1.234e-5), "12.3 µs");
        assert_eq!(time(0.0451), "45.1 ms");
        assert_eq!(time(12.0), "12.0 s");
        assert_eq!(bytes(33_554_432), "33.6 MB");
    }
}
