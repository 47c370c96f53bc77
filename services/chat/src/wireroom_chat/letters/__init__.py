"""Letters as PDF: templates of text, fonts, and the renderer."""
