"""Applications on an exported folder: question answering, recommendation, writing, a look inside, and the page that shows them."""
