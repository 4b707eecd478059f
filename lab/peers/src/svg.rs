//! SVG pictures. Text is left to the viewer's sans-serif font.

/// Colour, width and dashes of a line.
pub type Stroke = (&'static str, u32, &'static str);

// Colours that stay apart for the colour-blind (Okabe and Ito).
pub const BLUE: &str = "#0072B2";
pub const GREEN: &str = "#009E73";
pub const VERMILION: &str = "#D55E00";
pub const ORANGE: &str = "#E69F00";
pub const PURPLE: &str = "#CC79A7";

/// Colours of text and of what lies behind it.
#[derive(Clone, Copy)]
pub struct Paper {
    pub ink: &'static str,
    pub background: &'static str,
}

pub const LIGHT: Paper = Paper {
    ink: "#222222",
    background: "#FFFFFF",
};
/// For pages in GitHub's dark theme.
pub const DARK: Paper = Paper {
    ink: "#E6EDF3",
    background: "#0D1117",
};

/// A picture without its end.
pub struct Svg(String);

impl Svg {
    pub fn new((width, height): (f64, f64), Paper { ink, background }: Paper) -> Self {
        Self(format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" fill=\"{ink}\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"{background}\"/>\n"
        ))
    }

    pub fn text(&mut self, (x, y): (f64, f64), size: u32, anchor: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let place = format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"");
        self.0 += &format!("<text {place} font-size=\"{size}\">{text}</text>\n");
    }

    pub fn line(&mut self, points: &[(f64, f64)], (color, width, dashes): Stroke) {
        let mut places = String::new();
        for (x, y) in points {
            places += &format!("{x:.1},{y:.1} ");
        }
        let stroke = format!("stroke=\"{color}\" stroke-width=\"{width}\"");
        self.0 += &format!(
            "<polyline points=\"{places}\" fill=\"none\" {stroke} stroke-dasharray=\"{dashes}\"/>\n"
        );
    }

    pub fn dot(&mut self, (x, y): (f64, f64), color: &str) {
        self.0 += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{color}\"/>\n");
    }

    /// A rectangle from its upper left corner.
    pub fn bar(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), color: &str) {
        let place = format!("x=\"{x:.1}\" y=\"{y:.1}\"");
        let size = format!("width=\"{width:.1}\" height=\"{height:.1}\"");
        self.0 += &format!("<rect {place} {size} fill=\"{color}\"/>\n");
    }

    pub fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}
