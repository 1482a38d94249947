//! Prints a comparison as text, Markdown, CSV or JSON.

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};

use crate::comparison::{Comparison, Row, Scores};
use crate::spread::Spread;

/// Rules above, below and under the header, none between the rows.
const STYLE: TableStyle = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());

/// Columns on the left that hold names; numbers fill the others.
const NAME_COLUMNS: usize = 2;

/// Stands where there is no number.
const NONE: &str = "-";

impl Comparison {
    /// Prints a table for people, with its notes below.
    ///
    /// Cells wrap to keep the table within `width` columns; without one it is as wide as it needs
    /// to be. The terminal is never asked, so that equal runs give equal text everywhere.
    pub fn text(&self, width: Option<u16>) -> String {
        let mut lines = Vec::new();
        if !self.rows.is_empty() {
            lines.push(self.table(width));
            lines.push(String::new());
        }
        lines.extend(self.notes());
        lines.push(String::new());
        lines.join("\n")
    }

    /// Prints a Markdown table, with its notes as a list below.
    pub fn markdown(&self) -> String {
        let mut lines = Vec::new();
        if !self.rows.is_empty() {
            let header = self.header();
            let rule = |column| if column < NAME_COLUMNS { "---" } else { "---:" };
            let rules: Vec<_> = (0..header.len()).map(|column| rule(column).to_owned()).collect();
            lines.push(markdown_line(&header));
            lines.push(markdown_line(&rules));
            lines.extend(self.lines().iter().map(|cells| markdown_line(cells)));
            lines.push(String::new());
        }
        lines.extend(self.notes().iter().map(|note| format!("- {note}")));
        lines.push(String::new());
        lines.join("\n")
    }

    /// Prints comma-separated values for programs, one line a metric.
    ///
    /// Scores are fractions and times are seconds, in full precision. The marks stand in every
    /// line; the footnotes and the unfinished runs are left out.
    pub fn csv(&self) -> String {
        let mut text = "experiment,marks,output,metric,mean,standard_deviation,count,\
                        difference,difference_standard_deviation,difference_count\n"
            .to_owned();
        for row in &self.rows {
            for (output, scores) in &row.outputs {
                let differences = row.differences.get(output).map(metrics);
                for (index, (metric, spread)) in metrics(scores).into_iter().enumerate() {
                    let difference = differences.map(|differences| differences[index].1);
                    text.push_str(&csv_line(row, output, metric, spread, difference));
                }
            }
            text.push_str(&csv_line(row, "", "wall_seconds", row.wall_seconds, None));
        }
        text
    }

    /// Prints the comparison as indented JSON, which reads back as a [`Comparison`].
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    fn table(&self, width: Option<u16>) -> String {
        let mut table = Table::new();
        table.load_style(STYLE);
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        table.set_header(aligned(&self.header()));
        for line in self.lines() {
            table.add_row(aligned(&line));
        }
        table.trim_fmt()
    }

    fn has_differences(&self) -> bool {
        self.rows.iter().any(|row| !row.differences.is_empty())
    }

    fn has_tests(&self) -> bool {
        self.rows.iter().any(|row| !row.p_values.is_empty())
    }

    fn header(&self) -> Vec<String> {
        let mut header = vec!["experiment", "output", "accuracy %", "macro F1 %", "MAP %"];
        if self.has_differences() {
            header.extend(["Δ accuracy", "Δ macro F1", "Δ MAP"]);
        }
        if self.has_tests() {
            header.push("p");
        }
        header.push("wall s");
        header.into_iter().map(str::to_owned).collect()
    }

    /// Lists the cells, one line for each output.
    ///
    /// What concerns the whole experiment stands in its first line.
    fn lines(&self) -> Vec<Vec<String>> {
        let with_differences = self.has_differences();
        let mut lines = Vec::new();
        for row in &self.rows {
            let scored = row.outputs.iter().map(|(output, scores)| (output.as_str(), Some(scores)));
            let mut outputs: Vec<_> = scored.collect();
            if outputs.is_empty() {
                outputs.push((NONE, None));
            }
            for (index, (output, scores)) in outputs.into_iter().enumerate() {
                let first = index == 0;
                let mut cells = vec![if first { title(row) } else { String::new() }];
                cells.push(output.to_owned());
                cells.extend(score_cells(scores, percent));
                if with_differences {
                    cells.extend(score_cells(row.differences.get(output), points));
                }
                if self.has_tests() {
                    let p = row.p_values.get(output).map(|p| format!("{p:.3}"));
                    cells.push(p.unwrap_or_else(|| NONE.to_owned()));
                }
                cells.push(if first { seconds(row.wall_seconds) } else { String::new() });
                lines.push(cells);
            }
        }
        lines
    }

    /// Lists what must be known to read the table.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.rows.is_empty() {
            notes.push("no finished runs".to_owned());
        } else {
            let cell = "mean ± sample standard deviation (number of seeds)";
            notes.push(format!("{} split: {cell}", self.split));
        }
        if self.has_differences() {
            let first = &self.rows[0].experiment;
            notes.push(format!("Δ: points above `{first}`, over the seeds both have"));
        }
        if self.has_tests() {
            notes.push(
                "p: paired t-test of Δ accuracy, corrected for the rows of each output (Holm)"
                    .to_owned(),
            );
        }
        notes.extend(self.footnotes.iter().map(|(mark, meaning)| format!("[{mark}] {meaning}")));
        notes.extend(self.unfinished.iter().map(|run| {
            format!("not finished: `{}`, seed {}, in {}", run.experiment, run.seed, run.path)
        }));
        notes.extend(self.unreadable.iter().map(|run| format!("left out: {}", run.problem)));
        notes
    }
}

/// Names an experiment, its marks behind it.
fn title(row: &Row) -> String {
    let mut parts = vec![row.experiment.clone()];
    parts.extend(marks(row).iter().map(|mark| format!("[{mark}]")));
    parts.join(" ")
}

/// Lists the marks; one that does not hold for every run says for how many.
fn marks(row: &Row) -> Vec<String> {
    let runs = row.seeds.len();
    let named = row.marks.iter().map(|(mark, &count)| {
        if count == runs { mark.clone() } else { format!("{mark} {count}/{runs}") }
    });
    named.collect()
}

fn metrics(scores: &Scores) -> [(&'static str, Spread); 3] {
    [
        ("accuracy", scores.accuracy),
        ("macro_f1", scores.macro_f1),
        ("mean_average_precision", scores.mean_average_precision),
    ]
}

fn score_cells(scores: Option<&Scores>, print: fn(Spread) -> String) -> [String; 3] {
    match scores {
        Some(scores) => metrics(scores).map(|(_, spread)| print(spread)),
        None => [NONE; 3].map(str::to_owned),
    }
}

/// Prints a fraction in percent: `64.21 ± 1.30 (5)`.
fn percent(spread: Spread) -> String {
    with_spread(&format!("{:.2}", 100.0 * spread.mean), spread, 100.0, 2)
}

/// Prints a difference of fractions in percentage points: `+1.20 ± 0.50 (5)`.
fn points(spread: Spread) -> String {
    with_spread(&format!("{:+.2}", 100.0 * spread.mean), spread, 100.0, 2)
}

/// Prints seconds: `812.4 ± 3.1 (5)`.
fn seconds(spread: Spread) -> String {
    with_spread(&format!("{:.1}", spread.mean), spread, 1.0, 1)
}

fn with_spread(mean: &str, spread: Spread, scale: f64, decimals: usize) -> String {
    let count = spread.count;
    match spread.standard_deviation {
        Some(deviation) => format!("{mean} ± {:.decimals$} ({count})", scale * deviation),
        None => format!("{mean} ({count})"),
    }
}

fn aligned(cells: &[String]) -> Vec<Cell> {
    let align = |(column, text): (usize, &String)| {
        let name = column < NAME_COLUMNS;
        let alignment = if name { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(text).set_alignment(alignment)
    };
    cells.iter().enumerate().map(align).collect()
}

fn markdown_line(cells: &[String]) -> String {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    format!("| {} |", cells.join(" | "))
}

fn csv_line(
    row: &Row,
    output: &str,
    metric: &str,
    spread: Spread,
    difference: Option<Spread>,
) -> String {
    let mut fields = vec![row.experiment.clone(), marks(row).join("; ")];
    fields.extend([output.to_owned(), metric.to_owned()]);
    fields.extend(csv_spread(Some(spread)));
    fields.extend(csv_spread(difference));
    let fields: Vec<_> = fields.iter().map(|field| csv_field(field)).collect();
    fields.join(",") + "\n"
}

fn csv_spread(spread: Option<Spread>) -> [String; 3] {
    let mean = spread.map(|spread| spread.mean.to_string());
    let deviation = spread.and_then(|spread| spread.standard_deviation).map(|sd| sd.to_string());
    let count = spread.map(|spread| spread.count.to_string());
    [mean, deviation, count].map(Option::unwrap_or_default)
}

/// Quotes a field where a comma, quote or line end would break the line (RFC 4180).
fn csv_field(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use mie_record::ORACLE;
    use tempfile::TempDir;

    use super::*;
    use crate::compare;
    use crate::samples::Sample;

    /// Compares two experiments over two seeds; the second has one more output and one mark.
    fn two_experiments(root: &TempDir) -> Comparison {
        let runs = [
            Sample::new("joint", 0).scored("fused", 0.5).finish(root),
            Sample::new("joint", 1).scored("fused", 0.7).finish(root),
            Sample::new("mie", 0).scored("fused", 0.6).scored("audio", 0.25).finish(root),
            Sample::new("mie", 1)
                .scored("fused", 0.9)
                .scored("audio", 0.25)
                .marked(ORACLE)
                .finish(root),
        ];
        compare(&runs)
    }

    #[test]
    fn markdown_holds_the_whole_table_and_its_notes() {
        let root = tempfile::tempdir().unwrap();
        let mut comparison = two_experiments(&root);
        comparison.rows[0].experiment = "jo|nt".to_owned();
        let expected = [
            "| experiment | output | accuracy % | macro F1 % | MAP % \
             | Δ accuracy | Δ macro F1 | Δ MAP | p | wall s |",
            "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
            "| jo\\|nt | fused | 60.00 ± 14.14 (2) | 30.00 ± 7.07 (2) | 15.00 ± 3.54 (2) \
             | - | - | - | - | 150.0 ± 70.7 (2) |",
            "| mie [oracle 1/2] | audio | 25.00 ± 0.00 (2) | 12.50 ± 0.00 (2) | 6.25 ± 0.00 (2) \
             | - | - | - | - | 150.0 ± 70.7 (2) |",
            "|  | fused | 75.00 ± 21.21 (2) | 37.50 ± 10.61 (2) | 18.75 ± 5.30 (2) \
             | +15.00 ± 7.07 (2) | +7.50 ± 3.54 (2) | +3.75 ± 1.77 (2) | 0.205 |  |",
            "",
            "- test split: mean ± sample standard deviation (number of seeds)",
            "- Δ: points above `jo|nt`, over the seeds both have",
            "- p: paired t-test of Δ accuracy, corrected for the rows of each output (Holm)",
            "- [oracle] weights were selected on the test split, which flatters the scores",
            "",
        ];
        let markdown = comparison.markdown();
        assert_eq!(markdown.split('\n').collect::<Vec<_>>(), expected);
    }

    #[test]
    fn text_holds_the_same_cells_and_notes() {
        let root = tempfile::tempdir().unwrap();
        let text = two_experiments(&root).text(None);
        let cells = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
            line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect()
        };
        let joint = [
            "joint",
            "fused",
            "60.00 ± 14.14 (2)",
            "30.00 ± 7.07 (2)",
            "15.00 ± 3.54 (2)",
            "-",
            "-",
            "-",
            "-",
            "150.0 ± 70.7 (2)",
        ];
        assert_eq!(cells("joint"), joint);
        assert_eq!(cells("mie")[..3], ["mie [oracle 1/2]", "audio", "25.00 ± 0.00 (2)"]);
        let fused = ["fused", "75.00 ± 21.21 (2)", "37.50 ± 10.61 (2)", "18.75 ± 5.30 (2)"];
        assert_eq!(cells("fused")[..4], fused);
        assert!(text.contains("\n[oracle] weights were selected on the test split"), "{text}");
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{text:?}");
    }

    #[test]
    fn text_keeps_within_the_width_and_loses_nothing() {
        let root = tempfile::tempdir().unwrap();
        let comparison = two_experiments(&root);
        let widest = |text: &str| {
            let table = text.lines().take_while(|line| !line.is_empty());
            table.map(|line| line.chars().count()).max().unwrap()
        };
        assert!(widest(&comparison.text(None)) > 110);
        let narrow = comparison.text(Some(110));
        assert!(widest(&narrow) <= 110, "{narrow}");
        for part in ["joint", "audio", "14.14", "21.21", "+15.00", "150.0"] {
            assert!(narrow.contains(part), "{part} is missing:\n{narrow}");
        }
    }

    #[test]
    fn differences_have_columns_only_where_there_are_any() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("joint", 0).scored("fused", 0.5).finish(&root),
            Sample::new("mie", 1).scored("fused", 0.75).finish(&root),
        ];
        let markdown = compare(&runs).markdown();
        let line = "| mie | fused | 75.00 (1) | 37.50 (1) | 18.75 (1) | 200.0 (1) |";
        assert!(markdown.contains(line) && !markdown.contains('Δ'), "{markdown}");
    }

    #[test]
    fn csv_holds_one_number_a_line_and_quotes_names() {
        let root = tempfile::tempdir().unwrap();
        let runs = [
            Sample::new("joint", 0).scored("fused", 0.5).finish(&root),
            Sample::new("a \"b\", c", 0).scored("fused", 0.75).marked(ORACLE).finish(&root),
            Sample::new("a \"b\", c", 1).scored("fused", 0.25).finish(&root),
        ];
        let expected = [
            "experiment,marks,output,metric,mean,standard_deviation,count,\
             difference,difference_standard_deviation,difference_count",
            "joint,,fused,accuracy,0.5,,1,,,",
            "joint,,fused,macro_f1,0.25,,1,,,",
            "joint,,fused,mean_average_precision,0.125,,1,,,",
            "joint,,,wall_seconds,100,,1,,,",
            "\"a \"\"b\"\", c\",oracle 1/2,fused,accuracy,0.5,0.3535533905932738,2,0.25,,1",
            "\"a \"\"b\"\", c\",oracle 1/2,fused,macro_f1,0.25,0.1767766952966369,2,0.125,,1",
            "\"a \"\"b\"\", c\",oracle 1/2,fused,mean_average_precision,\
             0.125,0.08838834764831845,2,0.0625,,1",
            "\"a \"\"b\"\", c\",oracle 1/2,,wall_seconds,150,70.71067811865476,2,,,",
            "",
        ];
        let csv = compare(&runs).csv();
        assert_eq!(csv.split('\n').collect::<Vec<_>>(), expected);
    }

    #[test]
    fn json_reads_back_and_keeps_what_is_not_a_number() {
        let root = tempfile::tempdir().unwrap();
        let mut comparison = two_experiments(&root);
        let read: Comparison = serde_json::from_str(&comparison.json().unwrap()).unwrap();
        assert_eq!(read, comparison);
        comparison.rows[0].wall_seconds.mean = f64::NAN;
        let read: Comparison = serde_json::from_str(&comparison.json().unwrap()).unwrap();
        assert!(read.rows[0].wall_seconds.mean.is_nan());
        assert!(comparison.text(None).contains("NaN ± 70.7 (2)"));
    }

    #[test]
    fn unfinished_runs_and_runs_without_scores_show() {
        let root = tempfile::tempdir().unwrap();
        let started = Sample::new("mie", 7).start(&root);
        let note = format!("not finished: `mie`, seed 7, in {}", started.path().display());
        let comparison = compare(std::slice::from_ref(&started));
        assert_eq!(comparison.text(None), format!("no finished runs\n{note}\n"));
        assert_eq!(comparison.markdown(), format!("- no finished runs\n- {note}\n"));

        let runs = [started, Sample::new("joint", 0).finish(&root)];
        let markdown = compare(&runs).markdown();
        let line = "| joint [no test scores] | - | - | - | - | 100.0 (1) |";
        assert!(markdown.contains(line) && markdown.contains(&note), "{markdown}");
    }
}
