//! Charts are parsed, decoded and their elements counted; they are not compared with reference images.

use super::*;

fn chart() -> Chart {
    let line = |name: &str, style| {
        Series::new(name, style, (0..5).map(|i| (f64::from(i), f64::from(i * i))).collect())
    };
    Chart::new("A <title> & more", "step", "value")
        .with(line("line", Style::Line))
        .with(line("dots", Style::Points))
}

/// The tags by name, and the content of `text` elements; fails on unbalanced tags.
fn elements(svg: &str) -> (Vec<String>, Vec<String>) {
    let (mut tags, mut texts, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for part in svg.split('<').skip(1) {
        let (tag, after) = part.split_once('>').expect("a tag ends");
        let name =
            tag.trim_start_matches('/').split_whitespace().next().unwrap_or_default().trim_end_matches('/');
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
        } else {
            tags.push(name.to_owned());
            if name == "text" {
                texts.push(after.trim().to_owned());
            }
            if !tag.ends_with('/') {
                open.push(name.to_owned());
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    (tags, texts)
}

fn count(tags: &[String], name: &str) -> usize {
    tags.iter().filter(|tag| *tag == name).count()
}

#[test]
fn an_svg_has_every_point_and_names_every_series() {
    let svg = chart().svg().unwrap();
    let (tags, texts) = elements(&svg);
    assert!(svg.starts_with("<svg width=\"840\" height=\"440\""), "{svg}");
    // Five points and one sample in the legend.
    assert_eq!(count(&tags, "circle"), 6);
    for text in ["A &lt;title&gt; &amp; more", "line", "dots", "step", "value"] {
        assert!(texts.iter().any(|t| t == text), "{text}: {texts:?}");
    }
    let line = svg.split("<polyline").find(|p| p.contains("#0072B2") && p.matches(',').count() == 5);
    assert!(line.is_some(), "{svg}");
    // A marked line is a line and its points.
    let points = (0..5).map(|i| (f64::from(i), f64::from(i))).collect();
    let marked = Chart::new("", "x", "y").with(Series::new("marked", Style::Marked, points));
    assert_eq!(count(&elements(&marked.svg().unwrap()).0, "circle"), 6);
}

#[test]
fn what_is_not_finite_is_a_gap() {
    let mut chart = chart();
    let whole = elements(&chart.svg().unwrap()).0;
    chart.series[0].points[2].1 = f64::NAN;
    chart.series[1].points[1].1 = f64::INFINITY;
    let broken = elements(&chart.svg().unwrap()).0;
    assert_eq!(count(&broken, "polyline"), count(&whole, "polyline") + 1, "two lines instead of one");
    assert_eq!(count(&broken, "circle"), count(&whole, "circle") - 1);

    chart.log = true;
    let logarithmic = elements(&chart.svg().unwrap()).0;
    assert_eq!(
        count(&logarithmic, "circle"),
        count(&broken, "circle"),
        "the zero becomes a gap, the point before a circle"
    );
}

#[test]
fn nothing_to_draw_is_an_error() {
    let none = Chart::new("none", "x", "y");
    let gaps = none.clone().with(Series::new("gaps", Style::Line, vec![(0.0, f64::NAN); 3]));
    for chart in [none, gaps] {
        assert_eq!(chart.svg().unwrap_err().to_string(), "the chart \"none\" has nothing to draw");
        assert!(chart.png().is_err());
    }
}

#[test]
fn one_point_and_equal_values_are_drawn() {
    let one = Chart::new("", "x", "y").with(Series::new("one", Style::Line, vec![(3.0, 0.0)]));
    assert_eq!(count(&elements(&one.svg().unwrap()).0, "circle"), 1);
    let flat =
        Chart::new("", "x", "y").with(Series::new("flat", Style::Dashed, vec![(0.0, 1e-9), (1.0, 1e-9)]));
    elements(&flat.svg().unwrap());
}

#[test]
fn a_png_has_twice_the_size_and_the_series_colours() {
    let chart = Chart { size: [300, 200], ..chart() };
    let image = image::load_from_memory(&chart.png().unwrap()).unwrap().into_rgb8();
    assert_eq!(image.dimensions(), (600, 400));
    for colour in &PALETTE[..2] {
        assert!(image.pixels().filter(|p| p.0 == *colour).count() > 50, "{colour:?}");
    }
    assert!(image.pixels().all(|p| p.0 != PALETTE[2]));
}

#[test]
fn marks_and_ground_are_drawn_inside_the_plot_only() {
    let plain = elements(&chart().svg().unwrap());
    let mut chart = chart();
    chart.marks = vec![Mark { x: 2.5, label: "here".into() }, Mark { x: 99.0, label: "outside".into() }];
    let spans = vec![[1.0, 2.0], [4.0, 90.0], [50.0, 60.0]];
    chart.shades.push(Shade { label: "ground".into(), light: false, spans });
    let (tags, texts) = elements(&chart.svg().unwrap());
    assert!(texts.contains(&"here".to_owned()) && !texts.contains(&"outside".to_owned()), "{texts:?}");
    assert_eq!(count(&tags, "rect"), count(&plain.0, "rect") + 3, "two spans and the legend");
}

#[test]
fn a_target_is_known_by_its_ending() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.svg", "b.PNG"] {
        let written = Target::prepare(&dir.path().join(name)).unwrap().write(&chart()).unwrap();
        let bytes = std::fs::read(written).unwrap();
        assert_eq!(bytes.starts_with(b"<svg"), name == "a.svg");
        assert_eq!(bytes.starts_with(b"\x89PNG"), name == "b.PNG");
    }
    for name in ["a.pdf", "a"] {
        let error = Target::prepare(&dir.path().join(name)).unwrap_err();
        assert!(error.to_string().ends_with("a chart ends in .svg or .png"), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_page_has_a_colour_for_everything_that_is_no_series() {
    let mut chart = chart();
    chart.series[0].spread = vec![0.5; 5];
    chart.band = "band".into();
    chart.marks = vec![Mark { x: 2.5, label: "here".into() }];
    for light in [false, true] {
        chart.shades.push(Shade { label: "ground".into(), light, spans: vec![[1.0, 2.0]] });
    }
    let chart = chart.with(Series::new("bound", Style::Limit, vec![(0.0, 3.0), (4.0, 3.0)]));
    let (svg, style) = (chart.svg().unwrap(), super::style(".plot"));
    let of = |attribute: &str| -> Vec<String> {
        svg.split(&format!("{attribute}=\""))
            .skip(1)
            .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
            .collect()
    };
    for attribute in ["fill", "stroke"] {
        for colour in of(attribute).iter().filter(|colour| colour.starts_with('#')) {
            let series = PALETTE.iter().any(|[r, g, b]| *colour == format!("#{r:02X}{g:02X}{b:02X}"));
            let named = style.contains(&format!("[{attribute}=\"{colour}\"]"));
            assert!(series || named, "{attribute} {colour} has no colour in a page: {style}");
        }
    }
    let texts = elements(&svg).1;
    assert!(texts.contains(&"band".to_owned()) && texts.contains(&"bound".to_owned()), "{texts:?}");
}
