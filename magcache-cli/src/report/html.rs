//! Text that is safe in a page.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    compare::row::{Role, Row},
    plot::{self, PALETTE},
};

/// Text, or the value of an attribute in quotes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// A document inside a `script` element: no `<` that could end the element or begin a comment.
pub(super) fn json(document: &Value) -> Result<String> {
    let text = serde_json::to_string(document).context("cannot write the numbers")?;
    Ok(text.replace('<', "\\u003c"))
}

/// Names with their values.
pub(super) fn facts(facts: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let one =
        |(name, value): (&str, String)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
    format!("<dl class=\"facts\">{}</dl>", facts.into_iter().map(one).collect::<String>())
}

/// Something wide that scrolls by itself, with the keyboard too.
pub(super) fn scrolling(label: &str, content: &str) -> String {
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{}\" tabindex=\"0\">{content}</div>",
        escape(label)
    )
}

/// The colours of configurations, in strips, plots and beside their names, and those of what else is in plots.
pub(super) fn colours() -> String {
    let one = |(i, [r, g, b]): (usize, &[u8; 3])| format!(".c{i}{{--lane:rgb({r} {g} {b})}}");
    PALETTE.iter().enumerate().map(one).collect::<String>() + &plot::style(".plot")
}

/// The class of a lane, which gives it its colour: that of its place among the configurations.
pub(super) fn class(rows: &[Row], row: &Row) -> String {
    match row.role {
        Role::Dense => "dense".to_owned(),
        Role::Baseline => "baseline".to_owned(),
        Role::Config => format!("c{}", colour(rows, row)),
    }
}

/// The place of a configuration's colour in [`PALETTE`].
pub(super) fn colour(rows: &[Row], row: &Row) -> usize {
    let configs = rows.iter().filter(|r| r.role == Role::Config);
    configs.take_while(|other| other.name != row.name).count() % PALETTE.len()
}

/// A lane's name with its colour.
pub(super) fn name(rows: &[Row], row: &Row) -> String {
    format!("<span class=\"name {}\">{}</span>", class(rows, row), escape(&row.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_what_it_stands_in() {
        let evil = "</script><!-- \"a\" & 'b' <b>";
        assert_eq!(escape(evil), "&lt;/script&gt;&lt;!-- &quot;a&quot; &amp; &#39;b&#39; &lt;b&gt;");
        let inside = json(&serde_json::json!({ "prompt": evil })).unwrap();
        assert!(!inside.contains('<'), "{inside}");
        let back: Value = serde_json::from_str(&inside).unwrap();
        assert_eq!(back["prompt"], evil);
    }
}
