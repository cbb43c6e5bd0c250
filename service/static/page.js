// What pages can do beyond their links and forms. Without these files the links and forms do what matters.

import "./search.js";
import "./boxes.js";
import "./facets.js";
import "./picture.js";
import "./keyboard.js";
