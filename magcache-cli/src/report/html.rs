//! Helpers shared by the parts of the page.

use anyhow::{Context, Result};
use maud::{Markup, PreEscaped, html};
use serde_json::Value;

use crate::{
    compare::row::{Role, Row},
    plot::{self, PALETTE},
};

/// JSON inside a `script` element: without a `<`, which could end the element or begin a comment.
pub(super) fn json(document: &Value) -> Result<Markup> {
    let text = serde_json::to_string(document).context("cannot write the numbers")?;
    Ok(PreEscaped(text.replace('<', "\\u003c")))
}

pub(super) fn facts(facts: impl IntoIterator<Item = (&'static str, String)>) -> Markup {
    html! {
        dl class="facts" {
            @for (name, value) in facts { div { dt { (name) } dd { (value) } } }
        }
    }
}

/// Wide content that scrolls on its own, also with the keyboard.
pub(super) fn scrolling(label: &str, content: &Markup) -> Markup {
    html! { div class="scroll" role="region" aria-label=(label) tabindex="0" { (content) } }
}

/// CSS colours of configurations, in strips, plots and next to their names, and of the other parts of plots.
pub(super) fn colours() -> String {
    let one = |(i, [r, g, b]): (usize, &[u8; 3])| format!(".c{i}{{--lane:rgb({r} {g} {b})}}");
    PALETTE.iter().enumerate().map(one).collect::<String>() + &plot::style(".plot")
}

/// The CSS class of a lane, which gives it the colour of its position among the configurations.
pub(super) fn class(rows: &[Row], row: &Row) -> String {
    match row.role {
        Role::Dense => "dense".to_owned(),
        Role::Baseline => "baseline".to_owned(),
        Role::Config => format!("c{}", colour(rows, row)),
    }
}

/// The index of a configuration's colour in [`PALETTE`].
pub(super) fn colour(rows: &[Row], row: &Row) -> usize {
    let configs = rows.iter().filter(|r| r.role == Role::Config);
    configs.take_while(|other| other.name != row.name).count() % PALETTE.len()
}

pub(super) fn name(rows: &[Row], row: &Row) -> Markup {
    html! { span class={ "name " (class(rows, row)) } { (row.name) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_ends_what_it_stands_in() {
        let evil = "</script><!-- \"a\" & 'b' <b>";
        let text = scrolling(evil, &html! { (evil) }).into_string();
        assert!(!text.contains("</script>") && !text.contains("<b>"), "{text}");
        assert!(
            text.contains("aria-label=\"&lt;/script&gt;&lt;!-- &quot;a&quot; &amp; 'b' &lt;b&gt;\""),
            "{text}"
        );
        let inside = json(&serde_json::json!({ "prompt": evil })).unwrap().into_string();
        assert!(!inside.contains('<'), "{inside}");
        let back: Value = serde_json::from_str(&inside).unwrap();
        assert_eq!(back["prompt"], evil);
    }
}
