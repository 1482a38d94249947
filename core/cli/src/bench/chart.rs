//! Charts as SVG: lines over the width of a layer, both axes logarithmic.
//!
//! Lines are told apart by shade, dashes and marker alike, so that a print in grey can be read.

use std::fmt::Write as _;

/// A value at a width, with its range.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) width: f64,
    pub(super) value: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Drawn hollow, because something else than the line says was done there.
    pub(super) hollow: bool,
}

/// A line of a panel; lines of one style mean the same in all panels.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) style: usize,
    pub(super) points: Vec<Point>,
}

/// One pair of axes.
#[derive(Debug, Clone)]
pub(super) struct Panel {
    pub(super) title: String,
    /// What is drawn upwards, with its unit.
    pub(super) quantity: String,
    /// Whether values are seconds, which get the unit that fits.
    pub(super) seconds: bool,
    pub(super) lines: Vec<Line>,
}

/// Colour from dark to light, dashes, and outline of the marker, of each style.
const STYLES: [(&str, &str, &str); 6] = [
    ("#000000", "none", "M-3.5-3.5h7v7h-7z"),
    ("#7b3294", "7 3", "M0-4.5L4.5 3.5H-4.5z"),
    ("#0072b2", "2 2", "M-3.8 0a3.8 3.8 0 1 0 7.6 0a3.8 3.8 0 1 0 -7.6 0z"),
    ("#c1440e", "9 3 2 3", "M0-5L4.5 0L0 5L-4.5 0z"),
    ("#009e73", "none", "M0 4.5L4.5-3.5H-4.5z"),
    ("#e69f00", "4 2", "M-4-1.3h2.7v-2.7h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7z"),
];

/// Size of the plotted area, and what stands around it: left, top, right, bottom.
const PLOT: (f64, f64) = (330.0, 250.0);
const AROUND: (f64, f64, f64, f64) = (72.0, 34.0, 88.0, 48.0);
const HEAD: f64 = 62.0;

/// Draws rows of panels under a title and a legend.
pub(super) fn svg(title: &str, rows: &[Vec<Panel>]) -> String {
    let (width, height) = (AROUND.0 + PLOT.0 + AROUND.2, AROUND.1 + PLOT.1 + AROUND.3);
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1);
    let (whole_width, whole_height) = (columns as f64 * width, HEAD + rows.len() as f64 * height);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {whole_width:.0} \
         {whole_height:.0}\" width=\"{whole_width:.0}\" height=\"{whole_height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    text(&mut out, (12.0, 22.0), "start", "font-size=\"15\" font-weight=\"bold\"", title);
    legend(&mut out, rows);
    for (row, panels) in rows.iter().enumerate() {
        for (column, panel) in panels.iter().enumerate() {
            let left = column as f64 * width + AROUND.0;
            let top = HEAD + row as f64 * height + AROUND.1;
            Axes::of(panel, left, top).draw(&mut out, panel);
        }
    }
    out.push_str("</svg>\n");
    out
}

fn style(index: usize) -> (&'static str, &'static str, &'static str) {
    STYLES[index % STYLES.len()]
}

/// Adds text at a place; `more` are attributes.
fn text(out: &mut String, (x, y): (f64, f64), anchor: &str, more: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{words}</text>"
    );
}

fn stroke(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, more: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" {more}/>",
        from.0, from.1, to.0, to.1
    );
}

fn marker(out: &mut String, (x, y): (f64, f64), index: usize, hollow: bool) {
    let (colour, _, outline) = style(index);
    let fill = if hollow { "#ffffff" } else { colour };
    let _ = writeln!(
        out,
        "<path transform=\"translate({x:.1} {y:.1})\" d=\"{outline}\" fill=\"{fill}\" \
         stroke=\"{colour}\" stroke-width=\"1.2\"/>"
    );
}

/// Lists every line once, in the order of their styles.
fn legend(out: &mut String, rows: &[Vec<Panel>]) {
    let lines = || rows.iter().flatten().flat_map(|panel| &panel.lines);
    let mut names: Vec<_> = lines().map(|line| (line.style, line.name.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let (mut x, y) = (12.0, 44.0);
    for (index, name) in names {
        let (colour, dashes, _) = style(index);
        let looks = format!("stroke-width=\"1.8\" stroke-dasharray=\"{dashes}\"");
        stroke(out, (x, y), (x + 34.0, y), colour, &looks);
        marker(out, (x + 17.0, y), index, false);
        text(out, (x + 40.0, y + 4.0), "start", "", name);
        x += 58.0 + 7.0 * name.chars().count() as f64;
    }
    if lines().flat_map(|line| &line.points).any(|point| point.hollow) {
        text(out, (x, y + 4.0), "start", "fill=\"#555555\"", "hollow: another solver ran");
    }
}

/// Places of a panel's values on the page.
struct Axes {
    left: f64,
    top: f64,
    /// Logarithms to base 10 of the ends.
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    fn of(panel: &Panel, left: f64, top: f64) -> Self {
        let points = || panel.lines.iter().flat_map(|line| &line.points);
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            let usable = values.filter(|value| *value > 0.0 && value.is_finite());
            let ends = usable.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| {
                (low.min(value.log10()), high.max(value.log10()))
            });
            if ends.0 <= ends.1 { ends } else { (0.0, 1.0) }
        };
        let x = ends(&mut points().map(|point| point.width));
        let y = ends(&mut points().flat_map(|point| [point.least, point.most]));
        Self {
            left,
            top,
            x: (x.0 - 0.08, x.1 + 0.08),
            // Whole decades, and one at least.
            y: (y.0.floor(), y.1.ceil().max(y.0.floor() + 1.0)),
        }
    }

    fn place(&self, width: f64, value: f64) -> (f64, f64) {
        let share = |value: f64, (low, high): (f64, f64)| (value.log10() - low) / (high - low);
        let (x, y) = (share(width, self.x), share(value, self.y));
        (self.left + x * PLOT.0, self.top + (1.0 - y) * PLOT.1)
    }

    fn draw(&self, out: &mut String, panel: &Panel) {
        self.frame(out, panel);
        let mut ends: Vec<(f64, f64, &Line)> = Vec::new();
        for line in &panel.lines {
            let (colour, dashes, _) = style(line.style);
            let usable = |point: &&Point| point.value > 0.0 && point.value.is_finite();
            let points: Vec<&Point> = line.points.iter().filter(usable).collect();
            let at: Vec<(f64, f64)> =
                points.iter().map(|point| self.place(point.width, point.value)).collect();
            let path: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" \
                 stroke-dasharray=\"{dashes}\"/>",
                path.join(" ")
            );
            for (point, at) in points.iter().zip(&at) {
                let low = self.place(point.width, point.least.max(f64::MIN_POSITIVE)).1;
                let high = self.place(point.width, point.most).1;
                if low - high > 0.5 {
                    stroke(out, (at.0, low), (at.0, high), colour, "");
                    for y in [low, high] {
                        stroke(out, (at.0 - 3.0, y), (at.0 + 3.0, y), colour, "");
                    }
                }
                marker(out, *at, line.style, point.hollow);
            }
            ends.extend(at.last().map(|(x, y)| (*x, *y, line)));
        }
        // Labels beside the last points, pushed apart where they would cover each other.
        ends.sort_by(|one, other| one.1.total_cmp(&other.1));
        let mut lowest = f64::NEG_INFINITY;
        for (x, y, line) in ends {
            lowest = y.max(lowest + 13.0);
            let (colour, from) = (style(line.style).0, self.left + PLOT.0 + 12.0);
            stroke(out, (x + 6.0, y), (from - 2.0, lowest), colour, "stroke-width=\"0.6\"");
            let looks = format!("font-size=\"11\" fill=\"{colour}\"");
            text(out, (from, lowest + 4.0), "start", &looks, &line.name);
        }
    }

    /// Axes with their ticks, grid and words.
    fn frame(&self, out: &mut String, panel: &Panel) {
        let (right, bottom) = (self.left + PLOT.0, self.top + PLOT.1);
        let powers = (self.x.0 / 2f64.log10()).ceil() as i32..=(self.x.1 / 2f64.log10()) as i32;
        let mut widths: Vec<f64> = powers.map(|power| 2f64.powi(power)).collect();
        if widths.len() < 2 {
            let points = panel.lines.iter().flat_map(|line| &line.points);
            widths = points.map(|point| point.width).collect();
            widths.sort_by(f64::total_cmp);
            widths.dedup();
        }
        for width in widths {
            let x = self.place(width, 1.0).0;
            stroke(out, (x, self.top), (x, bottom), "#e4e4e4", "");
            text(out, (x, bottom + 16.0), "middle", "", &format!("{width:.0}"));
        }
        let decades = self.y.0 as i32..=self.y.1 as i32;
        // With very many decades every second or third has its number.
        let every = ((self.y.1 - self.y.0) / 10.0).ceil().max(1.0) as i32;
        for decade in decades.filter(|decade| decade % every == 0) {
            let y = self.place(1.0, 10f64.powi(decade)).1;
            stroke(out, (self.left, y), (right, y), "#e4e4e4", "");
            text(out, (self.left - 6.0, y + 4.0), "end", "", &tick(decade, panel.seconds));
        }
        stroke(out, (self.left, self.top), (self.left, bottom), "#333333", "");
        stroke(out, (self.left, bottom), (right, bottom), "#333333", "");
        let middle = f64::midpoint(self.top, bottom);
        let turned = format!("transform=\"rotate(-90 {:.1} {middle:.1})\"", self.left - 56.0);
        text(out, (self.left, self.top - 12.0), "start", "font-weight=\"bold\"", &panel.title);
        let below = (f64::midpoint(self.left, right), bottom + 36.0);
        text(out, below, "middle", "", "width of the layer (inputs)");
        text(out, (self.left - 56.0, middle), "middle", &turned, &panel.quantity);
    }
}

/// `10 µs`, `1 s`; `1e-7`.
fn tick(decade: i32, seconds: bool) -> String {
    match decade {
        _ if !seconds => format!("1e{decade}"),
        ..-6 => format!("{} ns", 10f64.powi(decade + 9)),
        -6..-3 => format!("{} µs", 10f64.powi(decade + 6).round()),
        -3..0 => format!("{} ms", 10f64.powi(decade + 3).round()),
        _ => format!("{} s", 10f64.powi(decade).round()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panel(title: &str, values: &[&[f64]]) -> Panel {
        let line = |(style, values): (usize, &&[f64])| Line {
            name: format!("solver {style}"),
            style,
            points: values
                .iter()
                .enumerate()
                .map(|(index, value)| Point {
                    width: 64.0 * 2f64.powi(index as i32),
                    value: *value,
                    least: value / 2.0,
                    most: value * 2.0,
                    hollow: index == 1,
                })
                .collect(),
        };
        Panel {
            title: title.to_owned(),
            quantity: "time (s)".to_owned(),
            seconds: true,
            lines: values.iter().enumerate().map(line).collect(),
        }
    }

    /// Fails unless every element is closed in order; returns the names of all elements.
    fn elements(svg: &str) -> Vec<String> {
        let (mut open, mut all) = (Vec::new(), Vec::new());
        for piece in svg.split('<').skip(1) {
            let (tag, content) = piece.split_once('>').unwrap();
            assert!(!content.contains('>'), "{piece}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop().as_deref(), Some(name), "{tag}");
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap().to_owned();
            all.push(name.clone());
            if !tag.ends_with('/') {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?}");
        all
    }

    #[test]
    fn a_chart_is_well_formed_and_has_a_line_for_each_solver() {
        let left = panel("f32 & <f64>", &[&[1e-4, 1e-3, 1e-2], &[2e-4, 1e-3, 4e-3]]);
        let right = panel("error", &[&[1e-7, 1e-7, 1e-6]]);
        let found = svg("How it \"scales\"", &[vec![left, right]]);
        let all = elements(&found);
        assert_eq!(all.iter().filter(|name| *name == "polyline").count(), 3);
        assert!(found.contains("f32 &amp; &lt;f64&gt;"), "{found}");
        // In the legend, and at the end of its line in each panel.
        assert_eq!(found.matches(">solver 0</text>").count(), 3);
        assert_eq!(found.matches(">solver 1</text>").count(), 2);
        for label in [">128<", ">1 ms<", ">100 µs<", ">width of the layer (inputs)<", ">time (s)<"]
        {
            assert!(found.contains(label), "{label} is missing");
        }
        assert!(!found.contains("NaN") && !found.contains("inf"), "{found}");
    }

    #[test]
    fn what_has_no_logarithm_is_left_out() {
        let found = svg("", &[vec![panel("", &[&[0.0, f64::NAN, 1.0], &[]])]]);
        assert_eq!(elements(&found).iter().filter(|name| *name == "polyline").count(), 2);
        assert!(!found.contains("NaN") && !found.contains("inf"), "{found}");
        elements(&svg("", &[]));
    }

    #[test]
    fn ticks_have_the_unit_that_fits() {
        let seconds = [-8, -5, -3, -1, 0, 2].map(|decade| tick(decade, true));
        assert_eq!(seconds, ["10 ns", "10 µs", "1 ms", "100 ms", "1 s", "100 s"]);
        assert_eq!(tick(-7, false), "1e-7");
    }
}
