"""The case book of the request side: Markdown chapters, and `loader`, which reads them."""
