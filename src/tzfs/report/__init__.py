"""A filesystem's history as one HTML page that needs no network.

collect      what the page shows, from the Python API
page         the page: data, style and script in one file
page.html, page.css, page.js
             what the browser gets; the script sets text, never markup, so no name or content is code
"""

from tzfs.report.collect import Blobs, collect
from tzfs.report.page import Badge, Card, Report, Row, render

__all__ = ["Badge", "Blobs", "Card", "Report", "Row", "collect", "render"]
