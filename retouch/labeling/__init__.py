"""A page for labeling images with the help of an encoder: ``retouch label encoder=RUN data=IMAGES -o label.html``.

settings.py     encoder, data
images.py       what the page holds: features, thumbnails, paths
page.py         the file (page.html.jinja with label.js)
label.js        in the browser: classes, a ridge classifier on the features, labels.csv
"""
