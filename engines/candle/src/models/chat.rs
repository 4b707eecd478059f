//! Chat templates, as transformers renders them.

use super::error::Result;
use super::tokenizer::Message;
use minijinja::{Environment, Error, ErrorKind, Value, context, syntax::SyntaxConfig};

/// The text of `messages`, with the start of the answer.
pub(super) fn render(
    template: &str,
    messages: &[Message],
    bos: Option<&str>,
    eos: Option<&str>,
) -> Result<String> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    // Templates call methods of Python's strings and lists.
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let refuse = |what: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, what))
    };
    environment.add_function("raise_exception", refuse);
    environment.add_template("chat", template)?;
    let message = |m: &Message| context! { role => &*m.role, content => &*m.content };
    let messages: Vec<Value> = messages.iter().map(message).collect();
    let text = environment.get_template("chat")?.render(context! {
        messages,
        add_generation_prompt => true,
        bos_token => bos.unwrap_or_default(),
        eos_token => eos.unwrap_or_default(),
    })?;
    Ok(text)
}
