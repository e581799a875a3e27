//! The data of a chart.

/// Colours that people with the common kinds of colour blindness can tell apart (Okabe and Ito, "Color
/// Universal Design", 2008, without the yellow, which is hard to see on white), as `[red, green, blue]`.
/// Series use them in this order.
pub(crate) const PALETTE: [[u8; 3]; 6] =
    [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

/// Lines, steps and points over two axes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chart {
    /// One line above the chart; may be empty.
    pub(crate) title: String,
    /// Width and height in SVG units.
    pub(crate) size: [u32; 2],
    /// Labels of the axes; their ranges are those of the data.
    pub(crate) x: String,
    pub(crate) y: String,
    /// The y axis is logarithmic; values that are not positive become gaps.
    pub(crate) log: bool,
    /// Drawn in this order, the last on top.
    pub(crate) series: Vec<Series>,
    pub(crate) marks: Vec<Mark>,
    /// Spans of the x axis with a grey background.
    pub(crate) shades: Vec<Shade>,
    /// Legend text for the bands around points.
    pub(crate) band: String,
}

/// A series with its own line in the legend.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series {
    /// Left out of the legend if empty.
    pub(crate) name: String,
    /// Points that are not finite become gaps.
    pub(crate) points: Vec<(f64, f64)>,
    /// Half the height of a band around each point; no band if empty.
    pub(crate) spread: Vec<f64>,
    pub(crate) style: Style,
    /// Index into [`PALETTE`]; defaults to the position in the chart's list.
    pub(crate) colour: Option<usize>,
}

/// How a series is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Style {
    #[default]
    Line,
    /// A line with a filled circle at every point: the circles are measurements, the line only connects them.
    Marked,
    /// A dashed line, which lets what is below show through.
    Dashed,
    /// Filled circles.
    Points,
    /// Open circles.
    Rings,
    /// A thin dashed grey line: a limit.
    Limit,
}

/// A vertical line with a label above it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) label: String,
}

/// Spans with a grey background, such as skipped steps.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Shade {
    /// Legend text.
    pub(crate) label: String,
    /// A lighter grey, for a partial match such as one branch of two.
    pub(crate) light: bool,
    /// Start and end of each span.
    pub(crate) spans: Vec<[f64; 2]>,
}

impl Chart {
    pub(crate) fn new(title: impl Into<String>, x: impl Into<String>, y: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            size: [840, 440],
            x: x.into(),
            y: y.into(),
            log: false,
            series: Vec::new(),
            marks: Vec::new(),
            shades: Vec::new(),
            band: String::new(),
        }
    }

    #[must_use]
    pub(crate) fn with(mut self, series: Series) -> Self {
        self.series.push(series);
        self
    }

    pub(super) fn shows(&self, (x, y): (f64, f64)) -> bool {
        x.is_finite() && y.is_finite() && (y > 0.0 || !self.log)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.extent().is_none()
    }

    /// The range of x and y values that must be visible; `None` without a point.
    pub(super) fn extent(&self) -> Option<[[f64; 2]; 2]> {
        let (mut x, mut y) = (Vec::new(), Vec::new());
        for series in &self.series {
            for (i, point) in series.points.iter().enumerate().filter(|(_, point)| self.shows(**point)) {
                let spread = series.spread.get(i).copied().filter(|s| s.is_finite()).unwrap_or_default();
                x.push(point.0);
                y.push(point.1);
                y.extend(
                    [-spread, spread].map(|s| point.1 + s).into_iter().filter(|y| *y > 0.0 || !self.log),
                );
            }
        }
        let range = |values: &[f64]| {
            let both = |[low, high]: [f64; 2], v: &f64| [low.min(*v), high.max(*v)];
            values.iter().fold([f64::INFINITY, f64::NEG_INFINITY], both)
        };
        (!x.is_empty()).then(|| [range(&x), range(&y)])
    }
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, style: Style, points: Vec<(f64, f64)>) -> Self {
        Self { name: name.into(), points, style, ..Self::default() }
    }
}
