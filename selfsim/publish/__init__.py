"""From parameterised notebooks to a published book.

``parameters`` reads the parameters of a notebook, ``run_list`` says which notebooks make a book, ``runner`` executes
them: a ``chapter`` becomes a ``page``, with one of the ``kernels``. ``book`` renders the pages, ``page_check`` checks
the result. ``digests`` and ``folders`` decide what is kept.
``import selfsim`` imports nothing of this; papermill and jupyter-book are imported only when used.
"""
