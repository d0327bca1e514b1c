//! Pictures of graphs as SVG: boxes in layers, from the top down, with arrows that go around boxes.
//!
//! The layout is that of Sugiyama, Tagawa and Toda ("Methods for Visual Understanding of Hierarchical System Structures", 1981), simply:
//! layers by the longest path, a narrow stand-in for an arrow in every layer that it passes, boxes near those they come from.

use std::fmt::Write;

use crate::page::escape;

/// A graph to be drawn.
#[derive(Default)]
pub struct Picture {
    /// The boxes; an arrow goes from a box to a later one.
    pub boxes: Vec<Box>,
    /// Arrows, by the indices of the boxes that they join.
    pub arrows: Vec<(usize, usize)>,
}

/// A box.
pub struct Box {
    /// In bold.
    pub title: String,
    /// Below it.
    pub lines: Vec<String>,
    /// Where a click leads.
    pub link: Option<String>,
}

/// Widths of a character of the title and of a line, height of a line, all in pixels.
const TITLE: f64 = 7.6;
const CHARACTER: f64 = 6.7;
const LINE: f64 = 16.0;
const PADDING: f64 = 10.0;
/// Space between boxes of a layer, and between layers.
const GAP: f64 = 24.0;
const RISE: f64 = 34.0;
/// Width that an arrow takes in a layer that it passes.
const LANE: f64 = 14.0;
/// Rounds of moving boxes towards those they are joined with.
const ROUNDS: usize = 6;

/// A box, or an arrow on its way through a layer.
struct Item {
    width: f64,
    height: f64,
    layer: usize,
    /// Of its middle.
    x: f64,
    above: Vec<usize>,
    below: Vec<usize>,
}

impl Box {
    fn width(&self) -> f64 {
        let title = self.title.chars().count() as f64 * TITLE;
        let lines = self.lines.iter().map(|line| line.chars().count() as f64 * CHARACTER);
        lines.fold(title, f64::max) + 2.0 * PADDING
    }

    fn height(&self) -> f64 {
        (self.lines.len() + 1) as f64 * LINE + PADDING
    }
}

impl Picture {
    /// The picture as an SVG element; nothing where there is nothing to see.
    pub fn svg(&self) -> String {
        if self.boxes.len() < 2 {
            return String::new();
        }
        let (mut items, paths) = self.items();
        let layers = layers(&items);
        // An arrow passes a layer beside its boxes, straight down.
        for layer in &layers {
            let height = layer.iter().map(|item| items[*item].height).fold(0.0, f64::max);
            layer.iter().filter(|item| **item >= self.boxes.len()).for_each(|item| items[*item].height = height);
        }
        place(&mut items, &layers);
        let left = items.iter().map(|item| item.x - item.width / 2.0).fold(f64::INFINITY, f64::min) - GAP;
        let right = items.iter().map(|item| item.x + item.width / 2.0).fold(f64::NEG_INFINITY, f64::max) + GAP;
        let mut tops = Vec::new();
        let mut bottom = RISE / 2.0;
        for layer in &layers {
            tops.push(bottom);
            bottom += layer.iter().map(|item| items[*item].height).fold(0.0, f64::max) + RISE;
        }
        let width = right - left;
        let mut svg = format!(
            "<svg class=\"picture\" viewBox=\"{left:.0} 0 {width:.0} {bottom:.0}\" width=\"{width:.0}\" height=\"{bottom:.0}\">\n"
        );
        for path in &paths {
            svg += &arrow(path, &items, &tops);
        }
        for (item, drawn) in items.iter().zip(&self.boxes) {
            drawn.write(&mut svg, item.x, tops[item.layer]);
        }
        svg += "</svg>\n";
        svg
    }

    /// Boxes first, then the stand-ins of arrows; and for each arrow the items that it joins, from top to bottom.
    fn items(&self) -> (Vec<Item>, Vec<Vec<usize>>) {
        let mut depth = vec![0; self.boxes.len()];
        let mut arrows: Vec<_> = self.arrows.iter().copied().filter(|(from, to)| from < to).collect();
        arrows.sort_unstable_by_key(|(from, to)| (*to, *from));
        arrows.dedup();
        for (from, to) in &arrows {
            depth[*to] = depth[*to].max(depth[*from] + 1);
        }
        let new = |width, height, layer| Item { width, height, layer, x: 0.0, above: Vec::new(), below: Vec::new() };
        let boxes = self.boxes.iter().zip(&depth);
        let mut items: Vec<Item> = boxes.map(|(drawn, layer)| new(drawn.width(), drawn.height(), *layer)).collect();
        let mut paths = Vec::new();
        for (from, to) in arrows {
            let mut path = vec![from];
            for layer in depth[from] + 1..depth[to] {
                path.push(items.len());
                items.push(new(LANE, 0.0, layer));
            }
            path.push(to);
            for pair in path.windows(2) {
                items[pair[0]].below.push(pair[1]);
                items[pair[1]].above.push(pair[0]);
            }
            paths.push(path);
        }
        (items, paths)
    }
}

/// The items of each layer from left to right: each near the middle of those above it.
fn layers(items: &[Item]) -> Vec<Vec<usize>> {
    let count = items.iter().map(|item| item.layer + 1).max().unwrap_or(0);
    let mut layers: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (index, item) in items.iter().enumerate() {
        layers[item.layer].push(index);
    }
    let mut rank = vec![0.0; items.len()];
    for layer in &mut layers {
        let middle = |item: &usize| {
            let above = &items[*item].above;
            let sum: f64 = above.iter().map(|other| rank[*other]).sum();
            if above.is_empty() { f64::INFINITY } else { sum / above.len() as f64 }
        };
        let mut ordered: Vec<(f64, usize)> = layer.iter().map(|item| (middle(item), *item)).collect();
        ordered.sort_by(|left, right| left.0.total_cmp(&right.0));
        *layer = ordered.into_iter().map(|(_, item)| item).collect();
        for (position, item) in layer.iter().enumerate() {
            rank[*item] = position as f64 / layer.len() as f64;
        }
    }
    layers
}

/// Gives every item its place: side by side at first, then towards those above and below by turns.
fn place(items: &mut [Item], layers: &[Vec<usize>]) {
    for layer in layers {
        pack(items, layer, &vec![0.0; layer.len()]);
    }
    for round in 0..ROUNDS {
        let down = round % 2 == 0;
        let order: Vec<usize> = if down { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for layer in order {
            let wanted: Vec<f64> = layers[layer]
                .iter()
                .map(|item| {
                    let others = if down { &items[*item].above } else { &items[*item].below };
                    let sum: f64 = others.iter().map(|other| items[*other].x).sum();
                    if others.is_empty() { items[*item].x } else { sum / others.len() as f64 }
                })
                .collect();
            pack(items, &layers[layer], &wanted);
        }
    }
}

/// Puts a layer's items as near to where they are wanted as their widths allow, in order.
fn pack(items: &mut [Item], layer: &[usize], wanted: &[f64]) {
    let mut edge = f64::NEG_INFINITY;
    let mut moved = 0.0;
    for (item, wanted) in layer.iter().zip(wanted) {
        let item = &mut items[*item];
        item.x = wanted.max(edge + item.width / 2.0);
        moved += item.x - wanted;
        edge = item.x + item.width / 2.0 + GAP;
    }
    // What was pushed to the right is shared out over all.
    let shift = moved / layer.len().max(1) as f64;
    layer.iter().for_each(|item| items[*item].x -= shift);
}

/// A curve through the items of an arrow.
fn arrow(path: &[usize], items: &[Item], tops: &[f64]) -> String {
    let bottom = |item: &Item| tops[item.layer] + item.height;
    let mut svg = String::new();
    let start = &items[path[0]];
    let (mut x, mut y) = (start.x, bottom(start));
    let _ = write!(svg, "<path d=\"M{x:.0} {y:.0}");
    for index in &path[1..] {
        let item = &items[*index];
        let end = tops[item.layer];
        let middle = (y + end) / 2.0;
        let _ = write!(svg, "C{x:.0} {middle:.0} {:.0} {middle:.0} {:.0} {end:.0}", item.x, item.x);
        (x, y) = (item.x, end);
        if path.last() != Some(index) {
            y = bottom(item);
            let _ = write!(svg, "V{y:.0}");
        }
    }
    let _ = writeln!(svg, "\"/><path class=\"head\" d=\"M{x:.0} {y:.0}l-4 -7h8z\"/>");
    svg
}

impl Box {
    fn write(&self, svg: &mut String, x: f64, top: f64) {
        let (width, height) = (self.width(), self.height());
        let left = x - width / 2.0;
        if let Some(link) = &self.link {
            let _ = write!(svg, "<a href=\"{}\">", escape(link));
        }
        let _ =
            write!(svg, "<rect x=\"{left:.0}\" y=\"{top:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"5\"/>");
        let mut baseline = top + LINE;
        let _ = write!(svg, "<text class=\"title\" x=\"{x:.0}\" y=\"{baseline:.0}\">{}</text>", escape(&self.title));
        for line in &self.lines {
            baseline += LINE;
            let _ = write!(svg, "<text x=\"{x:.0}\" y=\"{baseline:.0}\">{}</text>", escape(line));
        }
        svg.push_str(if self.link.is_some() { "</a>\n" } else { "\n" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(count: usize, arrows: &[(usize, usize)]) -> Picture {
        let boxes =
            (0..count).map(|index| Box { title: format!("box {index}"), lines: vec!["a < b".into()], link: None });
        Picture { boxes: boxes.collect(), arrows: arrows.to_vec() }
    }

    #[test]
    fn boxes_of_a_layer_do_not_overlap() {
        let picture = picture(7, &[(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (0, 4), (3, 5), (0, 6), (5, 6)]);
        let (mut items, paths) = picture.items();
        let layers = layers(&items);
        place(&mut items, &layers);
        assert_eq!(layers[0], [0]);
        for layer in &layers {
            for pair in layer.windows(2) {
                let (left, right) = (&items[pair[0]], &items[pair[1]]);
                assert!(left.x + left.width / 2.0 <= right.x - right.width / 2.0);
            }
        }
        // An arrow passes every layer on its way.
        for path in paths {
            assert!(path.windows(2).all(|pair| items[pair[0]].layer + 1 == items[pair[1]].layer));
        }
    }

    #[test]
    fn text_is_escaped_and_one_box_is_no_picture() {
        assert!(picture(2, &[(0, 1)]).svg().contains("a &lt; b"));
        assert_eq!(picture(1, &[]).svg(), "");
    }
}
