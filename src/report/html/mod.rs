//! The report as one HTML file: no script, nothing loaded from elsewhere, works printed.
//!
//! Every string from outside is escaped on its way in, and a content security policy forbids whatever
//! an escape might miss. Content and order come from [`super::document`], pictures from `picture.rs`.

mod picture;

use super::document::{self, Block};
use super::text::segments;
use super::{RenderOptions, Renderer, Report, checked, words};
use std::io::{self, Write};

/// The style sheet, part of the page.
const STYLE: &str = include_str!("style.css");

/// Cells of up to this many characters stay on one line.
const MAX_FIGURE: usize = 14;

/// The HTML renderer.
#[derive(Debug, Clone, Copy)]
pub struct Html;

impl Renderer for Html {
    fn id(&self) -> &'static str {
        "html"
    }

    fn extension(&self) -> &'static str {
        "html"
    }

    fn render(&self, report: &Report, out: &mut dyn Write, _: &RenderOptions) -> io::Result<()> {
        checked(report)?;
        let title = format!(
            "modelkin: {} and {}",
            super::text::name(&report.candidate.label),
            super::text::name(&report.reference.label)
        );
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n",
            escape(&title)
        );
        let mut n_pictures = 0;
        for block in document::of(report) {
            write_block(&block, &mut n_pictures, &mut page);
        }
        page.push_str("</main>\n</body>\n</html>\n");
        out.write_all(page.as_bytes())
    }
}

/// Text as HTML takes it, in elements and in quoted attributes.
fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 8);
    for c in s.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Prose with its backticked parts as code.
fn inline(s: &str) -> String {
    let parts = segments(s)
        .into_iter()
        .map(|(part, is_code)| match is_code {
            true => format!("<code>{}</code>", escape(part)),
            false => escape(part),
        });
    parts.collect()
}

/// An id that a heading can be linked by: letters, digits and dashes only.
fn anchor(title: &str) -> String {
    let dashed: String = title
        .chars()
        .map(|c| match c.is_ascii_alphanumeric() {
            true => c.to_ascii_lowercase(),
            false => '-',
        })
        .collect();
    let parts: Vec<&str> = dashed.split('-').filter(|part| !part.is_empty()).collect();
    parts.join("-")
}

fn write_block(block: &Block<'_>, n_pictures: &mut usize, out: &mut String) {
    match block {
        Block::Finding {
            sentence,
            strength,
            related,
            words: line,
        } => {
            let class = match related {
                Some(true) => "related",
                Some(false) => "unrelated",
                None => "undecided",
            };
            let full = words::strength_step(*strength);
            let steps: String = (0..words::STRENGTH_STEPS)
                .map(|i| match i < full {
                    true => "<i class=\"on\"></i>",
                    false => "<i></i>",
                })
                .collect();
            out.push_str(&format!(
                "<header class=\"{class}\">\n<h1>{}</h1>\n<p class=\"strength\"><span class=\"meter\" role=\"img\" \
                 aria-label=\"{full} of {} steps\">{steps}</span> {}</p>\n</header>\n",
                escape(sentence),
                words::STRENGTH_STEPS,
                escape(line)
            ));
        }
        Block::Heading(level, title) => match level {
            2 => out.push_str(&format!(
                "<h2 id=\"{}\">{}</h2>\n",
                anchor(title),
                escape(title)
            )),
            _ => out.push_str(&format!("<h3>{}</h3>\n", escape(title))),
        },
        Block::Paragraph(line) => out.push_str(&format!("<p>{}</p>\n", inline(line))),
        Block::List(numbered, items) => {
            let tag = if *numbered { "ol" } else { "ul" };
            out.push_str(&format!("<{tag}>\n"));
            for item in items {
                out.push_str(&format!("<li>{}</li>\n", inline(item)));
            }
            out.push_str(&format!("</{tag}>\n"));
        }
        Block::Table(titles, rows) => table(titles, rows, out),
        Block::Code(line) => out.push_str(&format!("<pre>{}</pre>\n", escape(line))),
        Block::HeatMap(title, grid) => {
            *n_pictures += 1;
            picture::heat_map(title, grid, *n_pictures, out);
        }
        Block::Histogram(title, histogram) => {
            *n_pictures += 1;
            picture::histogram(title, histogram, *n_pictures, out);
        }
    }
}

fn table(titles: &[&str], rows: &[Vec<String>], out: &mut String) {
    out.push_str("<div class=\"table\"><table>\n");
    if titles
        .iter()
        .any(|title| *title != "value" && !title.is_empty())
    {
        out.push_str("<thead><tr>");
        for title in titles {
            out.push_str(&format!("<th scope=\"col\">{}</th>", escape(title)));
        }
        out.push_str("</tr></thead>\n");
    }
    out.push_str("<tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            match i {
                0 => out.push_str(&format!("<th scope=\"row\">{}</th>", inline(cell))),
                // Short figures are not broken: a p-value over three lines is misread.
                _ if cell.chars().count() <= MAX_FIGURE => {
                    out.push_str(&format!("<td class=\"figure\">{}</td>", inline(cell)));
                }
                _ => out.push_str(&format!("<td>{}</td>", inline(cell))),
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn rendered(report: &Report) -> String {
        let mut out = Vec::new();
        Html.render(report, &mut out, &RenderOptions::default())
            .unwrap();
        String::from_utf8(out).unwrap()
    }

    /// Every tag of the page, without its angle brackets; the style sheet has none.
    fn tags(page: &str) -> Vec<&str> {
        page.split('<')
            .skip(1)
            .map(|rest| rest.split('>').next().unwrap())
            .collect()
    }

    const TAGS: &[&str] = &[
        "!doctype",
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "h1",
        "h2",
        "h3",
        "p",
        "span",
        "i",
        "ul",
        "ol",
        "li",
        "div",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "pre",
        "code",
        "figure",
        "figcaption",
        "svg",
        "rect",
        "text",
        "desc",
        "g",
    ];

    #[test]
    fn strangers_add_no_tag_no_handler_and_no_address() {
        for report in [fixture::report(), fixture::hostile(), fixture::empty()] {
            let page = rendered(&report);
            for tag in tags(&page) {
                let name = tag
                    .trim_start_matches('/')
                    .split([' ', '\n'])
                    .next()
                    .unwrap();
                assert!(TAGS.contains(&name), "<{tag}>");
                // What strangers write stands in quotes, so that outside of them none of it is seen.
                let outside: String = tag.split('"').step_by(2).collect();
                for attribute in outside.split_whitespace().skip(1) {
                    assert!(!attribute.starts_with("on"), "<{tag}>");
                    assert!(
                        !attribute.starts_with("src") && !attribute.starts_with("href"),
                        "<{tag}>"
                    );
                }
            }
        }
    }

    #[test]
    fn every_element_is_closed_in_order() {
        for report in [fixture::report(), fixture::hostile(), fixture::empty()] {
            let page = rendered(&report);
            let mut open: Vec<&str> = Vec::new();
            for tag in tags(&page) {
                let name = tag
                    .trim_start_matches('/')
                    .split([' ', '\n'])
                    .next()
                    .unwrap();
                if ["!doctype", "meta"].contains(&name) || tag.ends_with('/') {
                    continue;
                }
                match tag.starts_with('/') {
                    true => assert_eq!(open.pop(), Some(name), "</{name}>"),
                    false => open.push(name),
                }
            }
            assert!(open.is_empty(), "{open:?}");
        }
    }

    #[test]
    fn the_page_loads_nothing_and_runs_nothing() {
        let page = rendered(&fixture::report());
        assert!(page.contains("default-src 'none'"));
        for bad in ["<script", "url(", "@import", "<link"] {
            assert!(!page.contains(bad), "{bad}");
        }
    }

    #[test]
    fn the_finding_comes_first_and_a_tiny_p_is_no_zero() {
        let page = rendered(&fixture::report());
        assert!(page.find("<h1>").unwrap() < page.find("<h2").unwrap());
        assert!(page.contains("3.0e-2172") && page.contains("<svg"));
    }
}
