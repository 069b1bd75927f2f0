"""From parameterised notebooks to a published book.

``parameters`` reads what a notebook can be asked, ``run_list`` says which notebooks make a book, ``runner``
executes them, ``book`` renders them, ``page_check`` looks over the result, ``provenance`` signs every page.
Nothing here is imported by ``import selfsim``; papermill and jupyter-book are imported only when used.
"""
