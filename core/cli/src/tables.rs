//! Tables of scores.

use std::collections::BTreeMap;

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use mie_core::engine::FUSED;
use mie_record::OutputMetrics;

/// Rules above, below and under the header, none between the rows.
const STYLE: TableStyle = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());

/// Stands for a count of zero, so that the others are seen.
const ZERO: &str = "·";

/// Lists outputs for people: the modalities, then the joint decisions.
pub(crate) fn in_order<T>(outputs: &BTreeMap<String, T>) -> Vec<(&String, &T)> {
    let mut listed: Vec<_> = outputs.iter().collect();
    listed.sort_by_key(|(name, _)| name.split('.').next() == Some(FUSED));
    listed
}

/// Writes a fraction in percent: `70.67`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.2}", 100.0 * fraction)
}

/// Prints the scores of every output, split by split in the order given.
pub(crate) fn scores(splits: &[(&str, &BTreeMap<String, OutputMetrics>)]) -> String {
    let header = ["split", "output", "accuracy %", "macro F1 %", "MAP %", "loss", "samples"]
        .map(str::to_owned);
    let mut rows = Vec::new();
    for (split, outputs) in splits {
        for (index, (output, metrics)) in in_order(outputs).into_iter().enumerate() {
            rows.push(vec![
                if index == 0 { (*split).to_owned() } else { String::new() },
                output.clone(),
                percent(metrics.accuracy),
                percent(metrics.macro_f1),
                percent(metrics.mean_average_precision),
                format!("{:.4}", metrics.loss),
                metrics.samples.to_string(),
            ]);
        }
    }
    table(&header, &rows, 2)
}

/// Prints how often each class was taken for each class.
///
/// `counts` is `[classes][classes]`, a row for each true class. Columns are numbered, and rows are
/// named too, so that many classes still make a narrow table.
pub(crate) fn confusion(counts: &[Vec<u64>], classes: &[String]) -> String {
    let mut header = vec!["true class".to_owned()];
    header.extend((0..counts.len()).map(|class| class.to_string()));
    let row = |(class, row): (usize, &Vec<u64>)| {
        let name = classes.get(class).map_or("", String::as_str);
        let mut cells = vec![format!("{class} {name}")];
        cells.extend(row.iter().map(|&count| match count {
            0 => ZERO.to_owned(),
            count => count.to_string(),
        }));
        cells
    };
    let rows: Vec<Vec<String>> = counts.iter().enumerate().map(row).collect();
    table(&header, &rows, 1)
}

/// Prints a table whose first columns hold names and whose others hold numbers.
pub(crate) fn table(header: &[String], rows: &[Vec<String>], name_columns: usize) -> String {
    let aligned = |cells: &[String]| -> Vec<Cell> {
        let align = |(column, text): (usize, &String)| {
            let name = column < name_columns;
            let alignment = if name { CellAlignment::Left } else { CellAlignment::Right };
            Cell::new(text).set_alignment(alignment)
        };
        cells.iter().enumerate().map(align).collect()
    };
    let mut table = Table::new();
    table.load_style(STYLE);
    table.set_header(aligned(header));
    for row in rows {
        table.add_row(aligned(row));
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(accuracy: f64) -> OutputMetrics {
        OutputMetrics {
            accuracy,
            macro_f1: 0.5,
            mean_average_precision: 0.25,
            loss: 1.5,
            samples: 744,
        }
    }

    #[test]
    fn modalities_come_before_joint_decisions() {
        let outputs: BTreeMap<String, u8> = ["video", "fused.max", "audio", "fused", "flow"]
            .iter()
            .map(|name| ((*name).to_owned(), 0))
            .collect();
        let names: Vec<&str> = in_order(&outputs).iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["audio", "flow", "video", "fused", "fused.max"]);
    }

    #[test]
    fn scores_are_in_percent_and_name_their_split_once() {
        let test = BTreeMap::from([
            ("fused".to_owned(), metrics(0.7067)),
            ("video".to_owned(), metrics(1.0)),
        ]);
        let text = scores(&[("test", &test)]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert_eq!(lines[3], ["test", "video", "100.00", "50.00", "25.00", "1.5000", "744"]);
        assert_eq!(lines[4], ["fused", "70.67", "50.00", "25.00", "1.5000", "744"]);
    }

    #[test]
    fn confusion_names_true_classes_and_numbers_predicted_ones() {
        let text = confusion(&[vec![3, 0], vec![12, 4]], &["angry".to_owned(), "sad".to_owned()]);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["true", "class", "0", "1"]);
        assert_eq!(lines[3], ["0", "angry", "3", "·"]);
        assert_eq!(lines[4], ["1", "sad", "12", "4"]);
    }
}
