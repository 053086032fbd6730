// Draws window.DATA, which __main__.py writes, with Grafana's own components: panel frames, values, graphs, thresholds,
// units, legends. Not Grafana's: the layout, and state timelines, whose panel is not in @grafana/ui.
import React from 'react';
import {createRoot} from 'react-dom/client';
import {BigValue, LegendDisplayMode, PanelChrome, TimeSeries} from '@grafana/ui';
import {
  FieldType, ThemeContext, createDataFrame, createTheme, dateTime, getDisplayProcessor, getFieldDisplayValues,
} from '@grafana/data';

const DATA = window.DATA;
const ROW = 38;  // pixels of a unit of a panel's height
const COLUMN = DATA.width / 24;
const GAP = 8;
const theme = createTheme({colors: {mode: 'dark'}});
const TEXT = theme.colors.text.primary;
const from = dateTime(DATA.from * 1000);
const to = dateTime(DATA.to * 1000);
// What Grafana's panel for time series assumes of each field that the dashboard says nothing about.
const CUSTOM = {
  drawStyle: 'line', lineInterpolation: 'linear', lineWidth: 1, fillOpacity: 0, gradientMode: 'none', showPoints: 'auto',
  pointSize: 5, axisPlacement: 'auto', scaleDistribution: {type: 'linear'}, stacking: {mode: 'none', group: 'A'},
  hideFrom: {legend: false, tooltip: false, viz: false}, thresholdsStyle: {mode: 'off'}, axisLabel: '', barAlignment: 0,
  spanNulls: false, insertNulls: false, axisBorderShow: false, axisCenteredZero: false, axisColorMode: 'text',
};

function frames(panel) {
  return panel.series.map((series, index) => {
    const config = structuredClone(panel.defaults);
    config.custom = {...CUSTOM, ...config.custom};
    config.color ??= {mode: panel.type === 'timeseries' ? 'palette-classic' : 'thresholds'};
    const frame = createDataFrame({
      refId: series.refId,
      fields: [
        {name: 'Time', type: FieldType.time, values: series.times.map((time) => time * 1000), config: {}},
        {
          name: 'Value', type: FieldType.number, values: series.values,
          config: {...config, displayNameFromDS: series.name || undefined},
        },
      ],
    });
    for (const field of frame.fields) {
      field.state = {seriesIndex: index};
      field.display = getDisplayProcessor({field, theme, timeZone: 'utc'});
    }
    return frame;
  });
}

function Empty({panel, height}) {
  const text = panel.defaults.noValue || 'No data';
  return <div style={{textAlign: 'center', paddingTop: height / 3, color: TEXT, fontSize: 16}}>{text}</div>;
}

function Stat({panel, width, height}) {
  const values = getFieldDisplayValues({
    fieldConfig: {defaults: {...panel.defaults, color: {mode: 'thresholds'}}, overrides: []},
    reduceOptions: panel.options.reduceOptions, replaceVariables: (text) => text, theme, data: frames(panel),
    timeZone: 'utc',
  });
  const each = (width - 6 * (values.length - 1)) / values.length;
  return <div style={{display: 'flex', gap: 6}}>{values.map((value, index) => (
    <BigValue key={index} value={value.display} width={each} height={height} theme={theme} count={values.length}
      colorMode={panel.options.colorMode} graphMode={panel.options.graphMode}
      justifyMode={panel.options.justifyMode} textMode={panel.options.textMode}/>
  ))}</div>;
}

function Graph({panel, width, height}) {
  return <TimeSeries frames={frames(panel)} structureRev={1} timeRange={{from, to, raw: {from, to}}} timeZone="utc"
    width={width} height={height} legend={panel.options.legend} options={{}}
    replaceVariables={(text) => text}>{() => null}</TimeSeries>;
}

function Timeline({panel, width, height}) {
  const label = 0.45 * width;
  const step = (width - label) / (DATA.to - DATA.from);
  const row = Math.min(28, height / panel.series.length);
  return <svg width={width} height={height}>{frames(panel).map((frame, index) => {
    const [times, values] = frame.fields;
    return <g key={index} transform={`translate(0 ${index * row})`}>
      <text x={label - 8} y={row * 0.65} textAnchor="end" fontSize={11} fill={TEXT}>
        {values.config.displayNameFromDS}</text>
      {values.values.map((value, at) => {
        const begin = times.values[at] / 1000 - DATA.from;
        const shown = values.display(value);
        return <rect key={at} x={label + begin * step} y={2} height={row - 4} width={panel.step * step + 0.5}
          fill={shown.color}/>;
      })}
    </g>;
  })}</svg>;
}

function content(panel, width, height) {
  if (!panel.series.length) return <Empty panel={panel} height={height}/>;
  const Shown = {stat: Stat, timeseries: Graph, 'state-timeline': Timeline}[panel.type];
  return <Shown panel={panel} width={width} height={height}/>;
}

function App() {
  const style = {
    position: 'relative', width: DATA.width, height: DATA.rows * ROW + 10, color: TEXT,
    background: theme.colors.background.canvas, fontFamily: 'Inter,Helvetica,Arial,sans-serif',
  };
  return <ThemeContext.Provider value={theme}><div style={style}>{DATA.panels.map((panel, index) => {
    const {x, y, w, h} = panel.gridPos;
    const width = w * COLUMN - GAP;
    const height = h * ROW - GAP;
    const place = {position: 'absolute', left: x * COLUMN + GAP / 2, top: y * ROW + GAP / 2, width, height};
    if (panel.type === 'row') {
      return <div key={index} style={{...place, fontSize: 16, fontWeight: 500, lineHeight: '30px'}}>{panel.title}</div>;
    }
    return <div key={index} style={place}>
      <PanelChrome title={panel.title} width={width} height={height} description={panel.description}>
        {(inner, below) => content(panel, inner, below)}
      </PanelChrome>
    </div>;
  })}</div></ThemeContext.Provider>;
}

createRoot(document.getElementById('root')).render(<App/>);
