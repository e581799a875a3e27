//! One drawing routine for every backend. Lengths are in chart units, multiplied by `scale` on the backend.

use plotters::{
    chart::{ChartBuilder, ChartContext},
    coord::{
        Shift,
        cartesian::Cartesian2d,
        ranged1d::{AsRangedCoord, Ranged, ValueFormatter},
        types::RangedCoordf64,
    },
    drawing::DrawingArea,
    element::{Circle, PathElement, Polygon, Rectangle},
    prelude::{DrawingBackend, IntoLogRange},
    series::DashedLineSeries,
    style::{
        Color, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle, TextStyle, WHITE, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::{Chart, PALETTE, PlotError, Series, Shade, Style};

const FAMILY: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const AXIS: RGBColor = RGBColor(120, 120, 120);
const GRID: RGBColor = RGBColor(228, 228, 228);
const GROUND: RGBColor = RGBColor(232, 232, 232);
const LIGHT: RGBColor = RGBColor(244, 244, 244);

/// Colours of everything but the series, as written in SVG, each with a name.
pub(super) fn papers() -> [(&'static str, String); 6] {
    [("ground", WHITE), ("ink", INK), ("axis", AXIS), ("grid", GRID), ("shade", GROUND), ("light", LIGHT)]
        .map(|(name, RGBColor(r, g, b))| (name, format!("#{r:02X}{g:02X}{b:02X}")))
}

/// A line of the legend.
#[derive(Clone, Copy)]
enum Entry<'a> {
    Series(usize, &'a Series),
    Shade(&'a Shade),
    Band,
}

/// Heights of the lines above the plot, and the space between legend entries.
const TITLE: u32 = 30;
const ROW: u32 = 20;
const ENTRY: u32 = 18;
/// Width of a series' sample in the legend.
const SAMPLE: u32 = 26;
/// Radius of a point.
const RADIUS: u32 = 3;

type Plot<'a, B, Y> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, Y>>;

struct Pen<'a> {
    chart: &'a Chart,
    scale: u32,
}

pub(super) fn draw<B: DrawingBackend>(
    chart: &Chart,
    root: &DrawingArea<B, Shift>,
    scale: u32,
) -> Result<(), PlotError> {
    register_font(FAMILY, FontStyle::Normal, ttf_noto_sans::REGULAR)
        .map_err(|_| PlotError::Draw("the font inside the program cannot be read".to_owned()))?;
    let Some([x, y]) = chart.extent() else { return Err(PlotError::Empty(chart.title.clone())) };
    let pen = Pen { chart, scale };
    root.fill(&WHITE).map_err(failed)?;
    let top = pen.head(root)?;
    let x = padded(x, 0.015);
    if chart.log {
        let [low, high] = padded(y.map(f64::log10), 0.05).map(|v| 10f64.powf(v));
        pen.body(root, top, x, (low..high).log_scale())?;
    } else {
        let [low, high] = padded(y, 0.05);
        pen.body(root, top, x, low..high)?;
    }
    root.present().map_err(failed)
}

/// Extends a range by a fraction of its length; an empty one by a fraction of its value, at least 0.5.
fn padded([low, high]: [f64; 2], part: f64) -> [f64; 2] {
    let length = high - low;
    let margin = if length > 0.0 { length * part } else { (low.abs() * part).max(0.5) };
    [low - margin, high + margin]
}

/// Formats a value without trailing zeros.
fn tick(value: &f64) -> String {
    let value = if value.abs() < 1e-12 { 0.0 } else { *value };
    if value != 0.0 && !(1e-4..1e6).contains(&value.abs()) {
        return format!("{value:.2e}").replace(".00e", "e");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn ground(shade: &Shade) -> RGBColor {
    if shade.light { LIGHT } else { GROUND }
}

fn colour(index: usize, series: &Series) -> RGBColor {
    if series.style == Style::Limit {
        return AXIS;
    }
    let [r, g, b] = PALETTE[series.colour.unwrap_or(index) % PALETTE.len()];
    RGBColor(r, g, b)
}

fn failed(error: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

impl Pen<'_> {
    fn px(&self, length: u32) -> i32 {
        (length * self.scale) as i32
    }

    fn text(&self, size: u32, at: HPos) -> TextStyle<'static> {
        let font = FontDesc::new(FontFamily::Name(FAMILY), f64::from(size * self.scale), FontStyle::Normal);
        TextStyle::from(font).color(&INK).pos(Pos::new(at, VPos::Center))
    }

    fn line(&self, colour: RGBColor) -> ShapeStyle {
        colour.stroke_width(2 * self.scale)
    }

    /// Draws the title and the legend, above the plot so that they cover nothing; returns their height.
    fn head<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Result<u32, PlotError> {
        let (left, mut y) = (12u32, 8u32);
        if !self.chart.title.is_empty() {
            let at = (self.px(left), self.px(y + TITLE / 2));
            root.draw_text(&self.chart.title, &self.text(17, HPos::Left), at).map_err(failed)?;
            y += TITLE;
        }
        let style = self.text(13, HPos::Left);
        let shades = self.chart.shades.iter().map(|shade| (shade.label.as_str(), Entry::Shade(shade)));
        let series = self.chart.series.iter().enumerate();
        let series = series.map(|(i, s)| (s.name.as_str(), Entry::Series(i, s)));
        let has_band = self.chart.series.iter().any(|s| s.spread.iter().any(|spread| *spread > 0.0));
        let band = has_band.then_some((self.chart.band.as_str(), Entry::Band));
        let (mut x, mut rows) = (left, 0);
        for (name, entry) in series.chain(band).chain(shades).filter(|(name, _)| !name.is_empty()) {
            let width = root.estimate_text_size(name, &style).map_err(failed)?.0.div_ceil(self.scale);
            let whole = SAMPLE + 6 + width + ENTRY;
            if rows == 0 || x + whole > self.chart.size[0] {
                (x, y, rows) = (left, y + ROW * u32::from(rows > 0), rows + 1);
            }
            let middle = y + ROW / 2;
            self.sample(root, [x, middle], entry)?;
            root.draw_text(name, &style, (self.px(x + SAMPLE + 6), self.px(middle))).map_err(failed)?;
            x += whole;
        }
        Ok(y + ROW * u32::from(rows > 0))
    }

    fn sample<B: DrawingBackend>(
        &self,
        root: &DrawingArea<B, Shift>,
        [x, y]: [u32; 2],
        entry: Entry<'_>,
    ) -> Result<(), PlotError> {
        let at = |dx: u32| (self.px(x + dx), self.px(y));
        let (low, high) = ((self.px(x), self.px(y - 6)), (self.px(x + SAMPLE), self.px(y + 6)));
        let (index, series) = match entry {
            Entry::Series(index, series) => (index, series),
            Entry::Shade(shade) => {
                return root.draw(&Rectangle::new([low, high], ground(shade).filled())).map_err(failed);
            }
            // Bands have the colours of their series; the axis colour represents them all.
            Entry::Band => {
                return root.draw(&Rectangle::new([low, high], AXIS.mix(0.25).filled())).map_err(failed);
            }
        };
        let colour = colour(index, series);
        let stroke = |from, to| PathElement::new([at(from), at(to)], self.line(colour));
        match series.style {
            Style::Line => root.draw(&stroke(0, SAMPLE)).map_err(failed),
            Style::Marked => {
                root.draw(&stroke(0, SAMPLE)).map_err(failed)?;
                root.draw(&Circle::new(at(SAMPLE / 2), self.px(RADIUS), colour.filled())).map_err(failed)
            }
            Style::Dashed | Style::Limit => [(0, 7), (10, 17), (20, SAMPLE)]
                .into_iter()
                .try_for_each(|(from, to)| root.draw(&stroke(from, to)).map_err(failed)),
            Style::Points | Style::Rings => {
                let style = self.point(series.style, colour);
                root.draw(&Circle::new(at(SAMPLE / 2), self.px(RADIUS), style)).map_err(failed)
            }
        }
    }

    fn point(&self, style: Style, colour: RGBColor) -> ShapeStyle {
        if style == Style::Rings { self.line(colour) } else { colour.filled() }
    }

    fn body<B, R>(
        &self,
        root: &DrawingArea<B, Shift>,
        top: u32,
        [low, high]: [f64; 2],
        y: R,
    ) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        R: AsRangedCoord<Value = f64>,
        R::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        let named = self.chart.marks.iter().any(|mark| !mark.label.is_empty());
        let above = top + if named { ROW } else { 8 };
        let mut builder = ChartBuilder::on(root);
        builder.margin_top(self.px(above)).margin_right(self.px(18)).margin_bottom(self.px(6));
        builder.margin_left(self.px(6));
        builder.x_label_area_size(self.px(42)).y_label_area_size(self.px(64));
        let mut plot = builder.build_cartesian_2d(low..high, y).map_err(failed)?;
        self.ground(&mut plot)?;
        let (labels, words) = (self.text(12, HPos::Center), self.text(13, HPos::Center));
        plot.configure_mesh()
            .x_desc(self.chart.x.as_str())
            .y_desc(self.chart.y.as_str())
            .x_label_formatter(&tick)
            .y_label_formatter(&tick)
            .x_labels(12)
            .y_labels(8)
            .max_light_lines(1)
            .bold_line_style(GRID.stroke_width(self.scale))
            .light_line_style(WHITE.mix(0.0))
            .axis_style(AXIS.stroke_width(self.scale))
            .label_style(labels)
            .axis_desc_style(words)
            .set_all_tick_mark_size(self.px(4))
            .draw()
            .map_err(failed)?;
        self.marks(root, &mut plot)?;
        for (index, series) in self.chart.series.iter().enumerate() {
            self.series(&mut plot, series, colour(index, series))?;
        }
        Ok(())
    }

    fn ground<B, Y>(&self, plot: &mut Plot<'_, B, Y>) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64>,
    {
        let (x, y) = (plot.x_range(), plot.y_range());
        let spans = self.chart.shades.iter().flat_map(|s| s.spans.iter().map(|span| (ground(s), span)));
        let boxes = spans.filter(|(_, [from, to])| *to > x.start && *from < x.end);
        let boxes = boxes.map(|(colour, [from, to])| {
            let corners = [(from.max(x.start), y.start), (to.min(x.end), y.end)];
            Rectangle::new(corners, colour.filled())
        });
        plot.draw_series(boxes.collect::<Vec<_>>()).map(drop).map_err(failed)
    }

    fn marks<B, Y>(&self, root: &DrawingArea<B, Shift>, plot: &mut Plot<'_, B, Y>) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64>,
    {
        let (x, y) = (plot.x_range(), plot.y_range());
        let dash = self.px(4);
        for mark in self.chart.marks.iter().filter(|mark| x.contains(&mark.x)) {
            let ends = [(mark.x, y.start), (mark.x, y.end)];
            let style = AXIS.stroke_width(self.scale);
            plot.draw_series(DashedLineSeries::new(ends, dash, dash, style)).map_err(failed)?;
            let (left, top) = plot.backend_coord(&(mark.x, y.end));
            let at = (left, top - self.px(ROW / 2));
            root.draw_text(&mark.label, &self.text(12, HPos::Center), at).map_err(failed)?;
        }
        Ok(())
    }

    fn series<B, Y>(
        &self,
        plot: &mut Plot<'_, B, Y>,
        series: &Series,
        colour: RGBColor,
    ) -> Result<(), PlotError>
    where
        B: DrawingBackend,
        Y: Ranged<ValueType = f64>,
    {
        for run in self.runs(series) {
            let points = &series.points[run.clone()];
            if let Some(spread) = series.spread.get(run).filter(|_| points.len() > 1) {
                let low = plot.y_range().start;
                let at = |(point, spread): (&(f64, f64), &f64), sign: f64| {
                    let spread = if spread.is_finite() { *spread } else { 0.0 };
                    (point.0, (point.1 + sign * spread).max(low))
                };
                let upper = points.iter().zip(spread).map(|pair| at(pair, 1.0));
                let lower = points.iter().zip(spread).rev().map(|pair| at(pair, -1.0));
                let band = Polygon::new(upper.chain(lower).collect::<Vec<_>>(), colour.mix(0.15).filled());
                plot.draw_series([band]).map_err(failed)?;
            }
            let joined = points.to_vec();
            match series.style {
                Style::Line if joined.len() > 1 => {
                    plot.draw_series([PathElement::new(joined, self.line(colour))]).map_err(failed)?;
                }
                Style::Marked if joined.len() > 1 => {
                    let circles = joined.iter().map(|at| Circle::new(*at, self.px(RADIUS), colour.filled()));
                    plot.draw_series(circles.collect::<Vec<_>>()).map_err(failed)?;
                    plot.draw_series([PathElement::new(joined, self.line(colour))]).map_err(failed)?;
                }
                Style::Dashed | Style::Limit if joined.len() > 1 => {
                    let [dash, gap] = [7, 4].map(|length| self.px(length));
                    let width = if series.style == Style::Limit { self.scale } else { 2 * self.scale };
                    let line = DashedLineSeries::new(joined, dash, gap, colour.stroke_width(width));
                    plot.draw_series(line).map_err(failed)?;
                }
                style => {
                    let style = self.point(style, colour);
                    let circles = joined.into_iter().map(|at| Circle::new(at, self.px(RADIUS), style));
                    plot.draw_series(circles).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    /// The unbroken runs of points in a series.
    fn runs(&self, series: &Series) -> Vec<std::ops::Range<usize>> {
        let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
        for (i, _) in series.points.iter().enumerate().filter(|(_, point)| self.chart.shows(**point)) {
            match runs.last_mut() {
                Some(run) if run.end == i => run.end += 1,
                _ => runs.push(i..i + 1),
            }
        }
        runs
    }
}
