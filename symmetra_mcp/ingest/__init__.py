"""Rule files in, rules out.

`discover` finds the files, `parse` reads one of them (`decode`, `frontmatter`, `dialects`; then `blocks` and `split`
for Markdown, `markup` for XML and JSON-looking text, `native` for our own form), `plan` compares what they state with
what is stored, and `importer` does all of it. `export` writes our own form.
"""
